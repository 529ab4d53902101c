"""Whether two searches of the same problems chose equally fast configs: both re-measured in turn on the GPU.

``python benchmarks/agreement.py DIR OTHER STUDY.toml --out FILE.json`` needs a GPU; the folders are what ``bo-tune
tune`` wrote. Configs that are the same differ by nothing.
"""

import argparse
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bo_tune.devices import cuda_device, kernel_source
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Compiled, Device
from bo_tune.outcome import estimate_us
from bo_tune.problem import Problem
from bo_tune.study_file import load_study_file
from bo_tune.tables import flat_configs, read_folder, table_file_name

ROUNDS = 100


def compared(device: Device, problem: Problem, one: dict[str, int], other: dict[str, int]) -> dict[str, Any]:
    """Time two configs of a problem in turn."""
    builds = [device.compile(problem, config) for config in (one, other)]
    if not all(isinstance(build.result(), Compiled) for build in builds):
        sys.exit(f"{problem}: {one} or {other} does not compile")
    first, second = map(estimate_us, device.remeasure(problem, [one, other], ROUNDS))
    return {"one_us": first, "other_us": second, "difference_percent": 100 * (second / first - 1)}


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = cuda_device(0, source=kernel_source(options.kernels))
    one, other = (flat_configs(read_folder(folder)) for folder in (options.one, options.other))
    chosen = {}
    for problem in load_study_file(options.study).problems():
        spec = kernel_spec(problem.kernel)
        key = table_file_name(device.gpu.file_name, spec.file_stem(problem)), spec.table_key(problem)
        chosen[problem] = one[key], other[key]
    for problem, configs in chosen.items():  # all at once, on all compilers
        for config in configs:
            device.compile(problem, config)
    rows = []
    for problem, (first, second) in chosen.items():
        same = first == second
        found = {"difference_percent": 0.0} if same else compared(device, problem, first, second)
        rows.append({"problem": str(problem), "same": same, **found})
    apart = np.array([row["difference_percent"] for row in rows])
    summary = {
        "problems": len(rows),
        "same_config": sum(row["same"] for row in rows),
        "mean_difference_percent": float(apart.mean()),
        "mean_absolute_percent": float(np.abs(apart).mean()),
        "largest_absolute_percent": float(np.abs(apart).max()),
        "within_1_percent": int((np.abs(apart) < 1).sum()),
    }
    command = "python " + shlex.join(sys.argv)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"command": command, "date": date, "gpu": device.gpu.name, **device.provenance, "rounds": ROUNDS}
    options.out.write_text(json.dumps({**head, "summary": summary, "problems": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    device.close()


if __name__ == "__main__":
    main()
