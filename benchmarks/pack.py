"""What a pack takes off a tuning session: the same study without and with it, then both sets of configs in turn.

``python benchmarks/pack.py STUDY.toml PACK --out DIR`` needs the GPU that the pack was made for. Each session starts
from nothing: an empty database, an empty cache of Triton, processes of its own.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from agreement import compared

from bo_tune.devices import cuda_device, kernel_source
from bo_tune.kernels.registry import kernel_spec
from bo_tune.pack.archive import read_manifest
from bo_tune.problem import GpuInfo
from bo_tune.study_file import StudyFile, load_study_file
from bo_tune.tables import flat_configs, read_folder, table_file_name

TIMEOUT_S = 200.0
"""For one session."""


def tuned(name: str, options: argparse.Namespace, more: list[str]) -> dict[str, Any]:
    """Run one session and return its figures."""
    folder: Path = options.out / name
    figures = options.out / f"{name}.session.json"
    with tempfile.TemporaryDirectory() as cache:
        words = ["-m", "bo_tune", "tune", str(options.study), "--kernels", options.kernels, "--out", str(folder)]
        words += ["--storage", f"sqlite:///{options.out / name}.db", "--json", str(figures), *more]
        log = options.out / f"{name}.txt"
        start = time.perf_counter()
        with log.open("w") as output:
            environment = {**os.environ, "TRITON_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"}
            done = subprocess.run(
                [sys.executable, *words], stdout=output, stderr=subprocess.STDOUT, env=environment, timeout=TIMEOUT_S
            )
        wall_s = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{name}: exit code {done.returncode}: {log.read_text()[-2000:]}")
    activity = json.loads(figures.read_text())
    (device,) = activity["devices"].values()
    farm = device["farm"]
    return {
        "start_to_json_s": round(wall_s, 2),
        "session_s": activity["wall_s"],
        "gpu_share": activity["gpu_share"],
        "compiler_share": activity["compiler_share"],
        "trials": activity["trials"],
        "compiles": farm["compiles"],
        "packed": farm["packed"],
        "packed_s": farm["packed_s"],
        "compile_workers": farm["workers"],
        "trials_without_compile_percent": 100 * (1 - farm["compiles"] / activity["trials"]),
        "gpu_seconds": device["gpu"]["seconds"],
        "launches": sum(activity["launches"].values()),
    }


def differences(study: StudyFile, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time what both sessions chose, in turn, problem by problem."""
    plain, packed = (flat_configs(read_folder(options.out / name)) for name in ("plain", "pack"))
    device = cuda_device(0, source=kernel_source(options.kernels), packs=[options.pack])
    try:
        keys = {p: key_of(p, device.gpu) for p in study.problems()}
        apart = [p for p, key in keys.items() if plain[key] != packed[key]]
        for problem in apart:  # all at once; they are waited for below
            for chosen in (plain, packed):
                device.compile(problem, chosen[keys[problem]])
        rows = {p: compared(device, p, plain[keys[p]], packed[keys[p]]) for p in apart}
    finally:
        device.close()
    same = {"difference_percent": 0.0}
    return [{"problem": str(p), "same": p not in rows, **rows.get(p, same)} for p in keys]


def key_of(problem: Any, gpu: GpuInfo) -> tuple[str, tuple[str, ...]]:
    """Return where a problem's config lies among the tables of a folder."""
    spec = kernel_spec(problem.kernel)
    return table_file_name(gpu.file_name, spec.file_stem(problem)), spec.table_key(problem)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far apart the chosen configs are; positive where the pack's is slower."""
    apart = np.array([row["difference_percent"] for row in rows])
    return {
        "problems": len(rows),
        "same_config": sum(row["same"] for row in rows),
        "mean_difference_percent": float(apart.mean()),
        "median_difference_percent": float(np.median(apart)),
        "largest_percent": float(apart.max()),
        "smallest_percent": float(apart.min()),
        "within_1_percent": int((np.abs(apart) < 1).sum()),
        "pack_slower_by_1_percent": int((apart >= 1).sum()),
        "pack_faster_by_1_percent": int((apart <= -1).sum()),
    }


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--kernels", default="builtin")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(options.pack)
    head = {
        "command": "python " + shlex.join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "pack": {
            "binaries": len(manifest.binaries),
            "bytes": options.pack.stat().st_size,
            "compile_s": sum(binary.compile_s for binary in manifest.binaries),
            "triton": manifest.identity.toolchain.triton,
        },
    }
    sessions = {name: tuned(name, options, more) for name, more in sessions_of(options).items()}
    found = {**head, "sessions": sessions}
    write(options.out / "pack.json", found)
    rows = differences(load_study_file(options.study), options)
    write(options.out / "pack.json", {**found, "difference": summary(rows), "problems": rows})
    print(json.dumps({"sessions": sessions, "difference": summary(rows)}, indent=1))


def sessions_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the options of each session by its name."""
    return {"plain": [], "pack": ["--pack", str(options.pack)]}


def write(path: Path, content: dict[str, Any]) -> None:
    """Write what is known so far."""
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
