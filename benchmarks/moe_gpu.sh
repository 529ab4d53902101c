#!/usr/bin/env bash
# The fused MoE kernels on a GPU: a model's problems tuned for the path that its engine takes, the two-kernel path
# against its exhaustive grid, and tests.
#
#     OUT=results PYTHON=.venv/bin/python bash benchmarks/moe_gpu.sh
#
# Uses vLLM's own kernels where they can be imported (.vllm, see vllm_standins.py), else the project's, which have no
# one-launch path. Everything is written under $OUT. Takes DEADLINE seconds at most (200), which suffice with 14 compile
# processes. A step that fails does not keep the others from running; the summary comes last.
# TWO_KERNELS names the study that is compared with its grid: fully sharded adapters, which take the two-kernel path; for
# studies/moe-further.toml, on which that path has to be forced, the deadline must be 300 s. TESTS=all runs every GPU test
# of these kernels (a minute more), not only those of the one-launch path.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:?folder for results}
PYTHON=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
source=builtin
if [ -d .vllm/vllm ]; then
  export PYTHONPATH="$PWD/.vllm:$PYTHONPATH"
  source=vllm
fi
export TRITON_DEFAULT_FP_FUSION=1 COLUMNS=160
DEADLINE=${DEADLINE:-200}
MODEL=studies/qwen3-30b-a3b-moe.toml
TWO_KERNELS=${TWO_KERNELS:-studies/moe-fully-sharded.toml}
tests=(tests/kernels/test_vllm_moe_on_gpu.py -k "in_one_launch or decides")
[ "${TESTS:-}" = all ] && tests=(tests/kernels/test_moe_on_gpu.py tests/kernels/test_vllm_moe_on_gpu.py)
limited() { # seconds, command…: no longer than that, nor than is left
  local left=$((DEADLINE - SECONDS))
  timeout $((left < 1 ? 1 : left < $1 ? left : $1)) "${@:2}"
}
tune() { limited "$1" "$PYTHON" -m bo_tune "${@:2}"; }
step() { # name, command…: run it, keep its output, say how it went
  local name=$1 start=$SECONDS
  shift
  "$@" >"$OUT/$name.log" 2>&1
  echo "$name: exit $?, $((SECONDS - start)) s" | tee -a "$OUT/steps.txt"
}
mkdir -p "$OUT"
: >"$OUT/steps.txt"

# The two-kernel path is measured alone, and before anything else of these kernels is known.
step two-kernels-tuned tune 60 tune "$TWO_KERNELS" --kernels $source --moe-path two-kernels --budget 30 --no-stop \
  --storage memory --out "$OUT/two-kernels-tuned" --json "$OUT/two-kernels-tuned.json"
step model-tuned tune 90 tune $MODEL --kernels $source --budget 30 \
  --storage "sqlite:///$OUT/studies.db" --out "$OUT/model-tuned" --json "$OUT/model-tuned.json"
step show timeout 20 "$PYTHON" -m bo_tune show --storage "sqlite:///$OUT/studies.db"
if [ $source = vllm ]; then
  step lookup timeout 20 env VLLM_TUNED_CONFIG_FOLDER="$OUT/model-tuned" "$PYTHON" benchmarks/moe_lookup.py $MODEL
fi
step two-kernels-grid tune 130 grid "$TWO_KERNELS" --kernels $source --moe-path two-kernels --storage memory \
  --out "$OUT/two-kernels-grid" --record "$OUT/two-kernels-recorded" --json "$OUT/two-kernels-grid.json"
step two-kernels-compared timeout 15 "$PYTHON" -m bo_tune compare "$OUT/two-kernels-tuned" "$OUT/two-kernels-grid" \
  --recordings "$OUT/two-kernels-recorded" --json "$OUT/two-kernels.compare.json"
step tests limited 110 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu "${tests[@]}"

echo "== $SECONDS s in all, kernels of $source =="
grep -h "runs MoE LoRA\|project's own\|against default\|agree on\|is decided by\|configs launched\|^session" \
  "$OUT"/{model-tuned,two-kernels-tuned,two-kernels-grid}.log
echo "-- each problem of the model"
"$PYTHON" benchmarks/moe_summary.py "$OUT/model-tuned" "sqlite:///$OUT/studies.db"
echo "-- two-kernel path against its exhaustive grid"
grep -A4 "sum of 4 kernels" "$OUT/two-kernels-compared.log" | tail -n 3
grep -h "^regret\|^grid / tuned" "$OUT/two-kernels-compared.log"
[ $source = vllm ] && cat "$OUT/lookup.log"
tail -n 1 "$OUT/tests.log"
cat "$OUT/steps.txt"
