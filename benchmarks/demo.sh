#!/bin/sh
# The main job from one end to the other: tune, search the same problems exhaustively, compare.
# On a GPU: two problems of Llama-3.1-8B. Without one: the recorded H100 grids, through the same code.
set -eu
out=demo
rm -rf "$out"
mkdir -p "$out"

if python -c 'import sys, torch; sys.exit(not (torch.version.cuda and torch.cuda.is_available()))' 2>/dev/null; then
    echo "A GPU was found: tuning two problems on it, then their exhaustive grids (3,840 configs)."
    device=cuda
    study=studies/demo-gpu.toml
    set --
else
    echo "No GPU was found: replaying the recorded H100 grids in studies/recordings."
    device=replay:studies/recordings
    study=
    set -- --recordings studies/recordings
fi

bo-tune tune $study --device "$device" --storage "sqlite:///$out/bo_tune.db" --out "$out/tuned"
echo
echo "The same problems, exhaustively (some seconds without a word):"
bo-tune grid $study --device "$device" --storage memory --out "$out/grid" | tail -n 20
echo
bo-tune compare "$out/tuned" "$out/grid" "$@"
echo "The JSON that vLLM loads (VLLM_TUNED_CONFIG_FOLDER=$out/tuned):"
ls "$out"/tuned/*.json
