"""Two kernels that are not LoRA, tuned through the public API, against ``triton.autotune`` over the very same grid.

    python benchmarks/own_kernels.py --out own-kernels.json --seconds 300

Each of the two starts with an empty Triton cache. ``bo_tune`` comes first, then autotune, in a process of its own, in
what is left of the seconds: configs that it does not come to are said to be left out. At the end the configs that each
chose, and the default, are checked and timed in turn in one GPU process. The file is rewritten after each step.
``--grid full`` takes the examples' own spaces.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bo_tune
from bo_tune.core.outcome import Invalid, estimate_us
from bo_tune.core.problem import SizedProblem
from bo_tune.errors import BoTuneError
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.processes.importing import import_source

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 100
"""Of the last measurement, of all configs in turn."""

SHARES = (0.4,)
"""Of the seconds left, for each case but the last."""

COMPARING_S = 45.0
"""Kept of the seconds for comparing the choices of one example."""


Ranges = Mapping[str, Sequence[int]]

GRIDS = ("small", "medium", "full")
"""Of each case. On an H100 host autotune, which compiles one config after the other, should get through them in about
two, five and fifteen minutes."""


@dataclass(frozen=True)
class Case:
    """An example's kernel on some problems.

    Attributes:
        grids: by name, the ranges that replace the example's own.
    """

    example: str
    kernel: str
    problems: Sequence[Mapping[str, Any]]
    grids: Mapping[str, Ranges]

    @property
    def path(self) -> str:
        """The example's file."""
        return str(ROOT / "examples" / self.example)


TILES = {"BLOCK_M": (64, 128, 256), "BLOCK_N": (64, 128, 256), "BLOCK_K": (32, 64), "num_stages": (3, 4, 5)}

CASES = (
    Case(
        "softmax.py",
        "softmax_kernel",
        [{"rows": 8192, "cols": 8192}],
        {
            "small": {"ROWS": (1, 2), "BLOCK": (1024, 2048, 4096, 8192), "num_warps": (4, 8, 16), "num_stages": (1, 2)},
            "medium": {},
            "full": {},
        },
    ),
    Case(
        "matmul.py",
        "matmul_kernel",
        [{"M": 4096, "N": 4096, "K": 4096, "dtype": "bfloat16"}],
        {"small": {**TILES, "GROUP_M": (8,)}, "medium": TILES, "full": {}},
    ),
)


@contextmanager
def empty_cache() -> Iterator[dict[str, str]]:
    """Have processes that are started meanwhile use a Triton cache of their own, empty at first."""
    before = os.environ.get("TRITON_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        try:
            yield dict(os.environ)
        finally:
            if before is None:
                del os.environ["TRITON_CACHE_DIR"]
            else:
                os.environ["TRITON_CACHE_DIR"] = before


def kernel_of(case: Case) -> bo_tune.Kernel:
    """Import an example, as a module that child processes can import by its path."""
    module = import_source(case.path)
    return next(v for v in vars(module).values() if isinstance(v, bo_tune.Kernel) and v.name == case.kernel)


def searched(case: Case, space: Ranges) -> dict[str, Any]:
    """Tune a case with bo_tune."""
    start = time.perf_counter()
    with empty_cache():
        found = bo_tune.tune(kernel_of(case), case.problems, space=space)
    wall_s = round(time.perf_counter() - start, 2)
    return {"wall_s": wall_s, "problems": [{**asdict(best), "speed_up": best.speed_up} for best in found]}


def autotuned(case: Case, space: Ranges, seconds: float) -> dict[str, Any]:
    """Tune a case with ``triton.autotune``, for so many seconds at most."""
    request = {"example": case.path, "kernel": case.kernel, "problems": case.problems, "space": space}
    start, note = time.perf_counter(), ""
    with empty_cache() as environment, tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps({**request, "seconds": seconds}))
        command = [sys.executable, str(ROOT / "benchmarks" / "autotuned.py"), str(asked), str(answer)]
        try:
            # A compile under way at the deadline may take a while longer.
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 20)
            note = done.stderr.strip()[-500:] if done.returncode else ""
        except subprocess.TimeoutExpired:
            note = "killed: a config took longer than what was left"
        problems = json.loads(answer.read_text()) if answer.exists() else []
    return {"wall_s": round(time.perf_counter() - start, 2), "problems": problems, "note": note}


def compared(case: Case, configs: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[dict[str, float | None]]:
    """Time configs of each problem in turn; returns their times in us by name, None for what cannot run."""
    kernel = kernel_of(case)
    device = GpuDevice(0, source=case.path)
    try:
        return [_in_turn(device, kernel, sizes, some) for sizes, some in zip(case.problems, configs, strict=True)]
    finally:
        device.close()


def _in_turn(
    device: Any, kernel: bo_tune.Kernel, sizes: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | None]:
    problem = SizedProblem(kernel.name, tuple(sizes.items()))
    encoded = {name: kernel.encode(params, name) for name, params in configs.items()}
    builds = {name: device.compile(problem, config).result() for name, config in encoded.items()}
    runs = {name: config for name, config in encoded.items() if not isinstance(builds[name], Invalid)}
    times = device.remeasure(problem, list(runs.values()), ROUNDS).runtimes_us
    taken = {name: round(estimate_us(runtimes), 3) for name, runtimes in zip(runs, times, strict=True) if runtimes}
    return {name: taken.get(name) for name in encoded}


def one_case(case: Case, space: Ranges, left_s: float) -> Iterator[dict[str, Any]]:
    """Yield the figures of a case after each step."""
    start = time.perf_counter()
    kernel = kernel_of(case)
    figures: dict[str, Any] = {"example": case.example, "space": {**kernel.space, **space}}
    yield figures
    figures["bo_tune"] = searched(case, space)
    yield figures
    figures["autotune"] = autotuned(case, space, left_s - (time.perf_counter() - start) - COMPARING_S)
    yield figures
    ours, theirs = figures["bo_tune"]["problems"], figures["autotune"]["problems"]
    choices = [{"default": kernel.default, "bo_tune": best["config"]} for best in ours]
    for choice, found in zip(choices, theirs, strict=False):
        if found["launched"]:  # else autotune's choice is none
            choice["autotune"] = found["config"]
    figures["in_turn_us"] = compared(case, choices)
    yield figures


def summary(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the figures in lines."""
    for case in cases:
        both = {name: case[name] for name in ("bo_tune", "autotune") if name in case}
        for name, side in both.items():
            note = f"; {side['note']}" if side.get("note") else ""
            yield f"{case['example']}: {name}: {side['wall_s']} s from start to end{note}"
            for found in side["problems"]:
                launched = found.get("launched_configs", found.get("launched"))
                left_out = f", {found['left_out']} of {found['grid']} left out" if found.get("left_out") else ""
                yield (
                    f"  {found['problem']}: {launched} configs launched, {found['launches']} launches, "
                    f"{found['compiles']} compiles, {found['wall_s']:.1f} s{left_out}: {found['config']}"
                )
        for times in case.get("in_turn_us", []):
            yield f"  in turn, us: {times}"


def main() -> None:
    """Run every case, write figures as they come, print them last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--grid", choices=GRIDS, default="small")
    parser.add_argument("--only", choices=[case.example for case in CASES], help="one of the examples")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    cases: list[dict[str, Any]] = []
    document: dict[str, Any] = {"grid": arguments.grid, "seconds": arguments.seconds, "cases": cases}
    chosen = [case for case in CASES if arguments.only in (None, case.example)]
    for number, case in enumerate(chosen):
        cases.append({})
        left_s = arguments.seconds - (time.perf_counter() - begun)
        share_s = left_s * SHARES[number] if number < len(chosen) - 1 else left_s
        try:
            for figures in one_case(case, case.grids[arguments.grid], share_s):
                cases[-1] = figures
                document["wall_s"] = round(time.perf_counter() - begun, 2)
                arguments.out.write_text(json.dumps(document, indent=1))
        except BoTuneError as error:  # the other case is worth something all the same
            print(f"{case.example}: {error}", file=sys.stderr)
    for line in summary(cases):
        print(line)


if __name__ == "__main__":
    main()
