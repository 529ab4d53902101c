"""Whether two searches of the same problems chose equally fast configs: both re-measured in turn on the GPU.

``python benchmarks/agreement.py DIR OTHER STUDY.toml --out FILE.json`` needs a GPU; the folders are what ``bo-tune
tune`` wrote. Configs that are the same differ by nothing. Others are re-measured by several GPU processes one after the
other, for where a process has its code and data counts for a little on the shortest kernels: the difference is the
median of theirs, and how far they are apart is told.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import Problem
from bo_tune.engines.folder import flat_configs, read_folder
from bo_tune.engines.registry import address_of
from bo_tune.formats.study_file import load_study_file
from bo_tune.measure.device import Compiled
from bo_tune.measure.devices import kernel_source
from bo_tune.measure.gpu.device import GpuDevice

ROUNDS = 100


def compared(
    device: GpuDevice, pairs: Mapping[Problem, tuple[dict[str, int], dict[str, int]]], processes: int
) -> dict[Problem, dict[str, Any]]:
    """Time pairs of configs in turn, in one GPU process after another."""
    times: dict[Problem, list[tuple[float, float]]] = {problem: [] for problem in pairs}
    for process in range(processes):
        if process:
            device.restart_gpu_process()
        for problem, (one, other) in pairs.items():
            first, second = map(estimate_us, device.remeasure(problem, [one, other], ROUNDS).runtimes_us)
            times[problem].append((first, second))
    rows = {}
    for problem, found in times.items():
        apart = [100 * (second / first - 1) for first, second in found]
        one_us, other_us = (float(np.median(side)) for side in zip(*found, strict=True))
        rows[problem] = {
            "one_us": one_us,
            "other_us": other_us,
            "difference_percent": float(np.median(apart)),
            "by_process_percent": [round(difference, 2) for difference in apart],
        }
    return rows


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = GpuDevice(0, source=kernel_source(options.kernels))
    one, other = (flat_configs(read_folder(folder)) for folder in (options.one, options.other))
    chosen = {}
    for problem in load_study_file(options.study).problems():
        key = address_of(problem, device.gpu)
        chosen[problem] = one[key], other[key]
    different = {problem: configs for problem, configs in chosen.items() if configs[0] != configs[1]}
    builds = [device.compile(problem, config) for problem, configs in different.items() for config in configs]
    if not all(isinstance(build.result(), Compiled) for build in builds):
        sys.exit("a chosen config does not compile")
    found = compared(device, different, options.processes)
    rows: list[dict[str, Any]] = [
        {"problem": str(problem), "same": problem not in found, **found.get(problem, {"difference_percent": 0.0})}
        for problem in chosen
    ]
    spreads = [np.ptp(row["by_process_percent"]) for row in rows if not row["same"]]
    apart = np.array([row["difference_percent"] for row in rows])
    summary = {
        "problems": len(rows),
        "same_config": sum(row["same"] for row in rows),
        "mean_difference_percent": float(apart.mean()),
        "mean_absolute_percent": float(np.abs(apart).mean()),
        "largest_absolute_percent": float(np.abs(apart).max()),
        "within_1_percent": int((np.abs(apart) < 1).sum()),
        "median_range_over_processes_percent": float(np.median(spreads)) if spreads else None,
    }
    command = "python " + shlex.join(sys.argv)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"command": command, "date": date, "gpu": device.gpu.name, **device.provenance, "rounds": ROUNDS}
    head = {**head, "processes": options.processes}
    options.out.write_text(json.dumps({**head, "summary": summary, "problems": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    device.close()


if __name__ == "__main__":
    main()
