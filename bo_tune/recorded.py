"""Tune recorded calls of kernels under ``bo_tune.autotune``. ``docs/from-triton-autotune.md`` is the manual."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from bo_tune.api import BUDGET, EXIT_BAD_INPUT, Best, grid, tune
from bo_tune.core.choices import GRID_GP, MEMORY
from bo_tune.core.conditions import Timing
from bo_tune.errors import InputError, one_line
from bo_tune.kernels.autotuned.calls import CALL, TUNED_VARIABLE, RecordedCall, forget_calls, read_calls
from bo_tune.kernels.autotuned.settings import CALLS_FOLDER
from bo_tune.kernels.user.definition import Definition
from bo_tune.kernels.user.frozen import freeze
from bo_tune.kernels.user.identity.home import kernel_in
from bo_tune.measure.device import Device
from bo_tune.processes.importing import import_source
from bo_tune.search import StopRule

MEASURED_WHOLE = 40
"""Kernels with fewer configs are measured whole, because a search would save little."""


def tune_recorded(
    calls: str | Path = CALLS_FOLDER,
    *,
    table: str | Path | None = None,
    kernels: Sequence[str] = (),
    storage: str = MEMORY,
    device: str | Device = "cuda",
    budget: int | None = BUDGET,
    sampler: str = GRID_GP,
    stop: bool | StopRule = True,
    seed: int = 0,
    timing: str = Timing.COLD.value,
    jobs: int | None = None,
    compile_deadline_s: float | None = None,
    fresh: bool = False,
    progress: bool | None = None,
    record: str | Path | None = None,
) -> list[Best]:
    """Tune the recorded calls of kernels under ``bo_tune.autotune``, each key once, kernel by kernel.

    As with ``tune``, the same ``storage`` keeps finished results from being measured again. The ``problem`` of each
    result holds what winners are looked up by: the key, and the types of the tensors (``dtypes``).

    Args:
        calls: the folder that holds the recorded calls, or one of its files.
        table: a JSON file into which the winners of each kernel are frozen as soon as they are known.
        kernels: names of the kernels to tune; by default all.
        record: a folder for recordings. The whole grid of each call is then measured.
        storage, device, budget, sampler, stop, seed, timing, jobs, compile_deadline_s, fresh, progress: as of ``tune``.
            Kernels with fewer than ``MEASURED_WHOLE`` configs are measured whole.

    Raises:
        InputError: nothing was recorded, it cannot be read, or as ``tune``.
    """
    folder = Path(calls).absolute()
    asked = [call for call in read_calls(folder) if not kernels or call.kernel in kernels]
    if not asked:
        raise InputError(f"{folder}: there are no calls of {', '.join(kernels)}")
    found: list[Best] = []
    with _tuning(folder):
        for (home, name, _), some in _by_kernel(asked).items():
            kernel = kernel_in(_imported(home), name)
            problems = [dict(call.problem(name).sizes) for call in some]
            shared = {"storage": storage, "device": device, "timing": timing, "jobs": jobs, "fresh": fresh}
            limits = {"compile_deadline_s": compile_deadline_s, "progress": progress}
            if record is not None:
                best = grid(kernel, problems, record=record, **shared, **limits)  # type: ignore[arg-type]
            else:
                whole = _is_measured_whole(kernel)
                best = tune(
                    kernel,
                    problems,
                    budget=None if whole else budget,
                    stop=False if whole else stop,
                    sampler=sampler,
                    seed=seed,
                    **shared,  # type: ignore[arg-type]
                    **limits,  # type: ignore[arg-type]
                )
            looked_up = [replace(one, problem=_without_call(one)) for one in best]
            if table is not None:
                freeze(looked_up, table)
            found += looked_up
    return found


def _is_measured_whole(kernel: Definition) -> bool:
    return len(kernel.listed) < MEASURED_WHOLE


def _without_call(best: Best) -> dict[str, bool | int | float | str]:
    return {name: size for name, size in best.problem.items() if name != CALL}


def _imported(home: str) -> ModuleType:
    try:
        return import_source(home)
    except ImportError as error:
        raise InputError(
            f"{home} cannot be imported ({error}); tune where the program runs, with the same path"
        ) from None


def _by_kernel(calls: Sequence[RecordedCall]) -> dict[tuple[str, str, tuple[str, ...]], list[RecordedCall]]:
    """Return the calls of each kernel, the first of each key; a launch tells no more apart.

    Calls of one kernel that have other arguments of its key are problems of their own.
    """
    found: dict[tuple[str, str, tuple[str, ...]], dict[tuple[object, ...], RecordedCall]] = {}
    for call in calls:
        found.setdefault((call.home, call.kernel, call.key), {}).setdefault(tuple(call.sizes.items()), call)
    return {kernel: list(each.values()) for kernel, each in found.items()}


@contextmanager
def _tuning(folder: Path) -> Iterator[None]:
    """Tell the processes that compile and measure, which begin meanwhile, where the calls are."""
    forget_calls()
    before = os.environ.get(TUNED_VARIABLE)
    os.environ[TUNED_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[TUNED_VARIABLE]
        else:
            os.environ[TUNED_VARIABLE] = before


def main() -> None:
    """Tune one call for a process that waits for it (``kernels.autotuned.child``)."""
    request = json.loads(sys.argv[1])
    try:
        tune_recorded(
            request["calls"],
            table=request["table"],
            storage=request["storage"] or MEMORY,
            device=request["device"],
            timing=request["timing"],
            progress=False,
        )
    except InputError as error:
        sys.stderr.write(f"bo_tune: {one_line(error)}\n")
        raise SystemExit(EXIT_BAD_INPUT) from None
