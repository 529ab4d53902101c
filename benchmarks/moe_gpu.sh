#!/usr/bin/env bash
# The fused MoE kernels on a GPU: tests, a model's problems tuned jointly, and one problem against its exhaustive grid.
#
#     OUT=results PYTHON=.venv/bin/python bash benchmarks/moe_gpu.sh
#
# Uses vLLM's own kernels where they can be imported (.vllm, see vllm_standins.py), else the project's. Everything is
# written under $OUT. Measures for DEADLINE seconds at most (450), which suffice with 14 compile processes. A step that
# fails does not keep the others from running; the summary comes last.
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
DEADLINE=${DEADLINE:-450}
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

step tests limited 110 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu \
  tests/kernels/test_moe_on_gpu.py tests/kernels/test_vllm_moe_on_gpu.py

# Measured alone, and before anything else of this kernel is known.
step further-tuned tune 90 tune studies/moe-further.toml --kernels $source --budget 30 --no-stop \
  --storage memory --out "$OUT/further-tuned" --json "$OUT/further-tuned.json"
step qwen3-tuned tune 170 tune studies/qwen3-30b-a3b-moe.toml --kernels $source --budget 30 \
  --storage "sqlite:///$OUT/studies.db" --out "$OUT/qwen3-tuned" --json "$OUT/qwen3-tuned.json"
step further-taught tune 60 tune studies/moe-further.toml --kernels $source --budget 30 \
  --storage "sqlite:///$OUT/studies.db" --out "$OUT/further-taught" --json "$OUT/further-taught.json"
step further-grid tune 230 grid studies/moe-further.toml --kernels $source --storage memory \
  --out "$OUT/further-grid" --record "$OUT/further-recorded" --json "$OUT/further-grid.json"
for kind in tuned taught; do
  step "further-$kind-compared" timeout 15 "$PYTHON" -m bo_tune compare "$OUT/further-$kind" "$OUT/further-grid" \
    --recordings "$OUT/further-recorded" --json "$OUT/further-$kind.compare.json"
done
if [ $source = vllm ]; then
  step lookup timeout 20 env VLLM_TUNED_CONFIG_FOLDER="$OUT/qwen3-tuned" "$PYTHON" benchmarks/moe_lookup.py \
    studies/qwen3-30b-a3b-moe.toml
fi
echo "== $SECONDS s in all, kernels of $source =="
grep -h "runs MoE LoRA\|against default\|agree on\|configs launched" \
  "$OUT"/{further-tuned,qwen3-tuned,further-taught,further-grid}.log
for kind in tuned taught; do
  echo "-- one problem, $kind, against its exhaustive grid"
  grep -A4 "sum of 4 kernels" "$OUT/further-$kind-compared.log" | tail -n 3
  grep -h "^regret\|^grid / tuned" "$OUT/further-$kind-compared.log"
done
[ $source = vllm ] && cat "$OUT/lookup.log"
tail -n 1 "$OUT/tests.log"
cat "$OUT/steps.txt"
