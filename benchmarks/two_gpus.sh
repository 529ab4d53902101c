#!/bin/sh
# The same problems tuned on one GPU and on two of one host, by one tuning process and by two, each from nothing: wall
# times and their ratios. Needs a host with two NVIDIA GPUs of one type. Goal: at most 0.6 of one GPU's time on two.
#
#     sh benchmarks/two_gpus.sh [FOLDER [STUDY [options of bo-tune tune, as --pack FILE]]]
set -eu
out=${1:-benchmarks/results/two_gpus}
study=${2:-studies/llama-3.1-8b-96.toml}
shift $(($# < 2 ? $# : 2))
mkdir -p "$out"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
nvidia-smi --query-gpu=index,name,driver_version --format=csv,noheader >"$out/gpus.txt"
tune() { # NAME GPUS WORKERS
    run=$1 gpus=$2 workers=$3
    shift 3
    # Binaries are compiled anew each time: Triton's cache would give the second run the first one's work.
    TRITON_CACHE_DIR="$place/cache-$run" bo-tune tune "$study" --gpus "$gpus" --workers "$workers" --seed 0 \
        --storage "sqlite:///$place/$run.db" --out "$place/tuned-$run" --json "$out/$run.json" "$@"
}
tune one 0 1 "$@"
tune two 0,1 1 "$@"
tune two-workers 0,1 2 "$@"
python - "$out/one.json" "$out/two.json" "$out/two-workers.json" <<'END'
import json
import sys

one, *more = (json.load(open(path))["session"] for path in sys.argv[1:])
for name, run in zip(("one GPU", "two GPUs", "two GPUs, two workers"), (one, *more)):
    print(
        f"{name}: {run['wall_s']:.1f} s, {run['wall_s'] / one['wall_s']:.2f} of one GPU's; {run['studies']} studies, "
        f"GPU {run['gpu_share']:.0%}, compilers {run['compiler_share']:.0%}, tuning process {run['cpu_s']:.1f} s of a core"
    )
END
