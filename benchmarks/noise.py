"""How well a reported time repeats: configs measured again and again, each time in a GPU process just started.

``python benchmarks/noise.py --restarts 30 --out benchmarks/results/noise.h100.json`` needs a GPU. For each config: the
spread p90 / p10 of the reported time (the estimate of ten repetitions, as a trial reports it) over the restarts.
"""

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bo_tune.core.outcome import Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Compiled
from bo_tune.measure.gpu.device import GpuDevice

PROBLEMS = (
    LoraProblem("lora_shrink", 4, 1, 1, 4096, 16),
    LoraProblem("lora_shrink", 4, 1, 16, 4096, 16),
    LoraProblem("lora_shrink", 4, 3, 256, 4096, 16),
    LoraProblem("lora_shrink", 4, 1, 8192, 4096, 16),
    LoraProblem("lora_expand", 4, 1, 16, 16, 4096, add_inputs=True),
    LoraProblem("lora_expand", 4, 2, 64, 16, 14336, add_inputs=True),
    LoraProblem("lora_expand", 4, 3, 1024, 16, 4096, slice_sizes=(4096, 1024, 1024), add_inputs=True),
    LoraProblem("lora_expand", 4, 2, 8192, 16, 14336, add_inputs=True),
)
"""Kernels of 6 to 800 us."""


def measured(device: GpuDevice, problem: LoraProblem, config: dict[str, int], build: Compiled) -> Measurement:
    """Return what a trial of the config reports."""
    outcome = device.measure(problem, config, build, stop_above_us=None)
    if not isinstance(outcome, Measurement):
        sys.exit(f"{problem} {config}: {outcome}")
    return outcome


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/noise.json"))
    options = parser.parse_args()
    device = GpuDevice()
    configs = [kernel_spec(p.kernel).default_config(p) for p in PROBLEMS]
    builds = [device.compile(p, c) for p, c in zip(PROBLEMS, configs, strict=True)]
    ready: list[Compiled] = []
    for build in builds:
        found = build.result()
        if not isinstance(found, Compiled):
            sys.exit(str(found))
        ready.append(found)
    times: list[list[float]] = [[] for _ in PROBLEMS]
    late: list[int] = [0 for _ in PROBLEMS]
    for _ in range(options.restarts):
        device.restart_gpu_process()
        for place, work in enumerate(zip(PROBLEMS, configs, ready, strict=True)):
            outcome = measured(device, *work)
            times[place].append(outcome.time_us)
            late[place] += outcome.launches["late"]  # type: ignore[index]
    rows: list[dict[str, Any]] = []
    for problem, config, found, retaken in zip(PROBLEMS, configs, times, late, strict=True):
        low, middle, high = np.quantile(found, [0.1, 0.5, 0.9])
        row = {"problem": str(problem), "config": config, "median_us": middle, "spread_percent": 100 * (high / low - 1)}
        rows.append({**row, "late_launches": retaken, "times_us": found})
        print(f"{problem}: {middle:.2f} us, p90 / p10 {100 * (high / low - 1):.2f} %, {retaken} late launches retaken")
    document = {
        "command": "python " + shlex.join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": device.gpu.name,
        **device.provenance,
        "configs": rows,
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    device.close()


if __name__ == "__main__":
    main()
