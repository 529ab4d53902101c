"""What a pack takes off a tuning session: the same study without and with it, then both sets of configs in turn.

``python benchmarks/pack.py STUDY.toml PACK --out DIR`` needs the GPU that the pack was made for. Each session starts
from nothing: an empty database, an empty cache of Triton, processes of its own. ``--again`` runs the study without a
pack a second time, with another seed: two searches that differ in nothing else tell what of a difference is chance.
``--compare`` takes the sessions that an earlier run left in DIR, and only times what they chose.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.engines.folder import flat_configs, read_folder
from bo_tune.engines.registry import address_of
from bo_tune.formats.pack.archive import read_manifest
from bo_tune.formats.study_file import StudyFile, load_study_file
from bo_tune.measure.device import Compiled
from bo_tune.measure.devices import kernel_source
from bo_tune.measure.gpu.device import GpuDevice

TIMEOUT_S = 200.0
"""For one session."""

PROCESSES = 4
"""GPU processes in which configs are compared. Between two of them a pair of kernels of 6 to 8 us moves by several
percent: where their inputs lie in memory matters."""

ROUNDS = 50
"""Of each order: which of two kernels comes first may matter too."""

Pair = tuple[str, Problem]
"""A session's name, and a problem."""

Times = tuple[float, float]
"""Of the config chosen without a pack, and of the other, in us."""

PLAIN, PACK, AGAIN = "plain", "pack", "again"
"""Names of the sessions."""


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
    activity = json.loads(figures.read_text())["session"]
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


def differences(study: StudyFile, names: Sequence[str], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Time what each session chose and what the one without a pack did, in turn, problem by problem.

    In several GPU processes, in both orders; a difference is the geometric mean of what they say.
    """
    tables = {name: flat_configs(read_folder(options.out / name)) for name in (PLAIN, *names)}
    device = GpuDevice(0, source=kernel_source(options.kernels), packs=[options.pack])
    try:
        keys = {p: key_of(p, device.gpu) for p in study.problems()}
        pairs = {
            (name, p): (tables[PLAIN][key], tables[name][key])
            for name in names
            for p, key in keys.items()
            if tables[PLAIN][key] != tables[name][key]
        }
        packed = {pair: [bool(device.binaries(pair[1], [c])()[0]) for c in chosen] for pair, chosen in pairs.items()}
        builds = [device.compile(p, config) for (_, p), chosen in pairs.items() for config in chosen]
        if not all(isinstance(build.result(), Compiled) for build in builds):
            sys.exit("a chosen config does not compile")
        times = timed(device, pairs)
    finally:
        device.close()
    return {
        name: [{"problem": str(p), **row(times.get((name, p), []), packed.get((name, p)))} for p in keys]
        for name in names
    }


def timed(device: GpuDevice, pairs: Mapping[Pair, tuple[dict[str, int], dict[str, int]]]) -> dict[Pair, list[Times]]:
    """Return the times of pairs of configs, in us, from one GPU process after another."""
    times: dict[Pair, list[Times]] = {pair: [] for pair in pairs}
    for process in range(PROCESSES):
        if process:
            device.restart_gpu_process()
        for pair, (one, other) in pairs.items():
            there = device.remeasure(pair[1], [one, other], ROUNDS).runtimes_us
            back = device.remeasure(pair[1], [other, one], ROUNDS).runtimes_us
            times[pair].append((estimate_us([*there[0], *back[1]]), estimate_us([*there[1], *back[0]])))
    return times


def row(times: Sequence[Times], packed: Sequence[bool] | None) -> dict[str, Any]:
    """Return what is written of a problem; without times both sessions chose the same config."""
    if not times:
        return {"same": True, "difference_percent": 0.0}
    ratios = np.log([other / one for one, other in times])
    return {
        "same": False,
        "in_pack": packed,
        "times_us": times,
        "differences_percent": (100 * np.expm1(ratios)).tolist(),
        "difference_percent": float(100 * np.expm1(ratios.mean())),
    }


def key_of(problem: Problem, gpu: GpuInfo) -> tuple[str, tuple[str, ...]]:
    """Return where a problem's config lies among the tables of a folder."""
    return address_of(problem, gpu)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how far apart the chosen configs are; positive where the session without a pack chose the faster."""
    apart = np.array([row["difference_percent"] for row in rows])
    different = [row for row in rows if not row["same"]]
    by_process = np.array([row["differences_percent"] for row in different])
    return {
        "problems": len(rows),
        "same_config": len(rows) - len(different),
        "mean_difference_percent": float(apart.mean()),
        "standard_error_percent": float(apart.std(ddof=1) / np.sqrt(len(apart))),
        "mean_difference_by_process_percent": (by_process.sum(axis=0) / len(rows)).tolist() if different else [],
        "spread_between_processes_percent": float(by_process.std(axis=1, ddof=1).mean()) if different else 0.0,
        "chosen_without_and_not_in_the_pack": sum(not row["in_pack"][0] for row in different),
        "median_difference_percent": float(np.median(apart)),
        "largest_percent": float(apart.max()),
        "smallest_percent": float(apart.min()),
        "within_1_percent": int((np.abs(apart) < 1).sum()),
        "slower_by_1_percent": int((apart >= 1).sum()),
        "faster_by_1_percent": int((apart <= -1).sum()),
    }


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--kernels", default="builtin")
    parser.add_argument("--again", action="store_true", help="a second session without a pack, for comparison")
    parser.add_argument("--compare", action="store_true", help="only compare what sessions in DIR chose")
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
    path = options.out / "pack.json"
    if options.compare:
        found = {**json.loads(path.read_text()), "compared": {key: head[key] for key in ("command", "date")}}
    else:
        sessions = {name: tuned(name, options, more) for name, more in sessions_of(options).items()}
        found = {**head, "sessions": sessions}
        write(path, found)
    names = [name for name in found["sessions"] if name != PLAIN]
    rows = differences(load_study_file(options.study), names, options)
    found["differences"] = {name: summary(rows[name]) for name in names}
    write(path, {**found, "problems": rows})
    print(json.dumps({"sessions": found["sessions"], "differences": found["differences"]}, indent=1))


def sessions_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the options of each session by its name."""
    again = {AGAIN: ["--seed", "1"]} if options.again else {}
    return {PLAIN: [], PACK: ["--pack", str(options.pack)], **again}


def write(path: Path, content: dict[str, Any]) -> None:
    """Write what is known so far."""
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
