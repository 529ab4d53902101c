#!/bin/sh
# The same problems tuned on one GPU and on two of one host, each from nothing: wall times and their ratio.
# Needs a host with two NVIDIA GPUs of one type. Goal: at most 0.6 of one GPU's time on two.
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
for gpus in 0 0,1; do
    # Binaries are compiled anew each time: Triton's cache would give the second run the first one's work.
    TRITON_CACHE_DIR="$place/cache-$gpus" bo-tune tune "$study" --gpus "$gpus" --seed 0 \
        --storage "sqlite:///$place/$gpus.db" --out "$place/tuned-$gpus" --json "$out/gpus-$gpus.json" "$@"
done
python - "$out/gpus-0.json" "$out/gpus-0,1.json" <<'END'
import json
import sys

one, two = (json.load(open(path))["session"] for path in sys.argv[1:])
print(f"one GPU {one['wall_s']:.1f} s, two GPUs {two['wall_s']:.1f} s: ratio {two['wall_s'] / one['wall_s']:.2f}")
for name, run in (("one", one), ("two", two)):
    print(f"{name}: {run['studies']} studies, GPU {run['gpu_share']:.0%}, compilers {run['compiler_share']:.0%} of the time at work")
END
