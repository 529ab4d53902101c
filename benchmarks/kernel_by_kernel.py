"""The LoRA kernels' times inside a serving engine beside their times alone, kernel by kernel.

    python benchmarks/serving.py run --model DIR --mode untuned --profile --out untuned.json
    python benchmarks/serving.py run --model DIR --mode tuned --tuned DIR --profile --out tuned.json
    python benchmarks/kernel_by_kernel.py --tuned-with tune.json untuned.json tuned.json

``tune.json`` is what ``bo-tune tune --json`` wrote of the folder. An engine launches shrink and expand of a decoder
layer's linears in their order, layer after layer, so the n-th launch of a step tells which linear it serves. Of each
linear the median over layers and steps is taken. Alone means behind a cleared L2 cache, with nothing else on the GPU.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from scipy.stats import spearmanr

LINEARS = {
    "qkv_proj": ("s3.m{m}.k4096.n16", "s3.m{m}.k16.n4096"),
    "o_proj": ("s1.m{m}.k4096.n16", "s1.m{m}.k16.n4096"),
    "gate_up_proj": ("s2.m{m}.k4096.n16", "s2.m{m}.k16.n14336"),
    "down_proj": ("s1.m{m}.k14336.n16", "s1.m{m}.k16.n4096"),
}
"""Of Llama-3.1-8B, by what its problems are called: shrink and expand."""

BEFORE = {"lora_shrink": 0, "lora_expand": 1}
"""Launches of a step before its first layer: the embedding expands."""

AROUND = {"lora_shrink": 1, "lora_expand": 2}
"""Launches of a step beside those of its layers: lm_head's are the last."""


def in_engine(launches: Sequence[float], kernel: str, layers: int) -> dict[str, float]:
    """Return the median time of a linear's kernel in decode steps, in us."""
    step = layers * len(LINEARS) + AROUND[kernel]
    steps = [launches[at : at + step] for at in range(0, len(launches) - step + 1, step)][-8:]  # the first are prefill
    own = [one[BEFORE[kernel] :][: layers * len(LINEARS)] for one in steps]
    return {
        name: median(time_us for one in own for time_us in one[place :: len(LINEARS)])
        for place, name in enumerate(LINEARS)
    }


def rows(start: Mapping[str, Any], alone: Mapping[str, Mapping[str, Any]], tuned: bool) -> list[dict[str, Any]]:
    """Return the kernels of a start, each with its times in us."""
    found = []
    for m, kernels in start["kernels_us"].items():
        for place, kernel in enumerate(BEFORE):
            for name, engine_us in in_engine(kernels[kernel], kernel, start["layers"]).items():
                study = alone[f"{kernel} {LINEARS[name][place].format(m=m)}"]
                alone_us = study["best_us"] if tuned else study["default_us"]
                found.append({"kernel": kernel, "linear": name, "m": int(m), "engine": engine_us, "alone": alone_us})
    return found


def main() -> None:
    """Read the files and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuned-with", type=Path, required=True)
    parser.add_argument("starts", nargs="+", type=Path)
    options = parser.parse_args()
    document = json.loads(options.tuned_with.read_text())
    studies = document.get("one", document)["studies"]
    alone = {f"{s['kernel']} {s['problem'].split('.', 1)[1].split('.bfloat16')[0]}": s for s in studies}
    starts = [json.loads(path.read_text()) for path in options.starts]
    columns = {start["mode"]: rows(start, alone, "untuned" not in start["mode"]) for start in starts}
    print("| kernel | linear | m | " + " | ".join(f"{mode}: alone, engine us" for mode in columns) + " |")
    print("|---|---|---|" + "---|" * len(columns))
    for same in zip(*columns.values(), strict=True):
        first = same[0]
        cells = [f"{one['alone']:.1f}, {one['engine']:.1f}" for one in same]
        print(f"| {first['kernel']} | {first['linear']} | {first['m']} | " + " | ".join(cells) + " |")
    for mode, found in columns.items():
        for kernel in BEFORE:
            pairs = [(one["alone"], one["engine"]) for one in found if one["kernel"] == kernel]
            before, there = zip(*pairs, strict=True)
            ratio = geometric_mean([b / a for a, b in pairs])
            print(f"{mode}, {kernel}: engine / alone {ratio:.2f}, rank correlation {spearmanr(before, there)[0]:.2f}")
    if {"untuned", "tuned"} <= columns.keys():
        gains = [
            (a["alone"] / b["alone"], a["engine"] / b["engine"])
            for a, b in zip(columns["untuned"], columns["tuned"], strict=True)
        ]
        said, had = ([gain[way] for gain in gains] for way in (0, 1))
        print(
            f"gain: alone {geometric_mean(said):.2f}x, in the engine {geometric_mean(had):.2f}x; rank correlation of "
            f"the {len(gains)} gains {spearmanr(said, had)[0]:.2f}"
        )


if __name__ == "__main__":
    main()
