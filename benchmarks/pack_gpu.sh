#!/bin/sh
# What a pack takes off a tuning session, on a GPU host that has Python, torch and Triton of the pack's making, and
# where nothing can be downloaded: what else is needed lies in .whl/. At most seven minutes.
#
#   sh benchmarks/pack_gpu.sh .pack/llama.pack [--again]     (results below $OUT)
set -eu
pack=$1
shift
out=${OUT:-/tmp/pack}
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
export PYTHONPATH="/tmp/site:$PWD:$PWD/benchmarks" PYTHONUNBUFFERED=1
nvidia-smi -L
# The first import reads gigabytes from a cold disk: on nobody's account.
python3 -c 'import torch, triton, optuna; torch.zeros(1, device="cuda"); print(torch.__version__, triton.__version__)'
timeout 400 python3 benchmarks/pack.py studies/llama-3.1-8b-96.toml "$pack" --kernels builtin --out "$out" "$@"
grep -h "^session:\|^compilers:\|^packs:\|^NVIDIA" "$out"/*.txt
(cd "$out" && tar -czf tuned.tgz -- */ && rm -r -- */)
