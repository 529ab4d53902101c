#!/bin/sh
# The same problems tuned on one GPU and on two of one host, each from nothing: wall times and their ratio. Needs a host
# with two NVIDIA GPUs of one type. Goal: at most 0.6 of one GPU's time on two.
#
#     sh benchmarks/two_gpus.sh [FOLDER [STUDY [options of bo-tune tune, as --pack FILE, or --workers 1]]]
set -eu
out=${1:-benchmarks/results/two_gpus}
study=${2:-studies/llama-3.1-8b-96.toml}
shift $(($# < 2 ? $# : 2))
mkdir -p "$out"
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
nvidia-smi --query-gpu=index,name,driver_version --format=csv,noheader >"$out/gpus.txt"
tune() { # NAME GPUS
    run=$1 gpus=$2
    shift 2
    # Binaries are compiled anew each time: Triton's cache would give the second run the first one's work.
    start=$(date +%s.%N)
    TRITON_CACHE_DIR="$place/cache-$run" bo-tune tune "$study" --gpus "$gpus" --seed 0 \
        --storage "sqlite:///$place/$run.db" --out "$place/tuned-$run" --json "$out/$run.json" "$@"
    echo "$start $(date +%s.%N)" >"$out/$run.seconds"
}
tune one 0 "$@"
tune two 0,1 "$@"
python - "$out" <<'END'
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
sessions = {name: json.loads((out / f"{name}.json").read_text())["session"] for name in ("one", "two")}
ends = {name: [float(moment) for moment in (out / f"{name}.seconds").read_text().split()] for name in sessions}
for name, run in sessions.items():
    wall_s, command_s = run["wall_s"], ends[name][1] - ends[name][0]
    print(
        f"{name}: {wall_s:.1f} s, {wall_s / sessions['one']['wall_s']:.3f} of one GPU's; {run['studies']} studies, "
        f"{run['trials']} trials, GPU {run['gpu_share']:.0%}, compilers {run['compiler_share']:.0%}, "
        f"{run['cpu_s']:.1f} s of a core; command {command_s:.1f} s"
    )
END
