"""Searches that compete on a measured grid: this project's samplers, Optuna's, and Kernel Tuner's strategies.

Each returns the configs that it launched, in order. All see the same repetitions of a config under a seed, begin with
the default config where one is known, and pay a launch for a config that cannot run.
"""

import contextlib
import json
import os
import random
import tempfile
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from measured_grids import DEFAULT, MeasuredGrid
from optuna.trial import TrialState

import bo_tune.search
from bo_tune.core.outcome import estimate_us
from bo_tune.search import FiniteGridSampler, HistoryPrior, StudyHistory, certify, distributions, make_sampler
from bo_tune.search.grid import Params
from bo_tune.search.study_log import RUNTIMES_ATTR

TAUGHT = "grid-gp + other GPUs"
"""The project's sampler, taught by the grids of the same kernel on other GPUs."""

OPTUNA = ("grid-gp", TAUGHT, "coordinate-restarts", "random", "tpe", "gp")
KERNEL_TUNER = {
    "kt hybrid_vndx": "hybrid_vndx",
    "kt adaptive_tabu_greywolf": "adaptive_tabu_greywolf",
    "kt genetic": "genetic_algorithm",
    "kt bayes_opt": "bayes_opt",
}
"""Names in the tables, and Kernel Tuner's."""

CONTESTANTS = (*OPTUNA, *KERNEL_TUNER)

FEWER_SEEDS = {"kt bayes_opt": 3, "tpe": 5}
"""Of contestants that take long: the most seeds that they get."""

SMALLER_BUDGET = {"gp": 40}
"""Of those that take longer with every launch: where they end."""


FRAGILE = ("gp",)
"""Those that some grids end: Optuna 5.0's GPSampler fails an assertion of its own on values whose steps it rounds."""


@dataclass(frozen=True, slots=True)
class Search:
    """What one search did.

    Attributes:
        launched: indices of the configs it launched, in order.
        seconds: of the search itself, without any launch.
        claimed: by number of launches, the probability by its certificate that nothing untried is faster by more than
            1 %; of searches that have a surrogate.
    """

    launched: list[int]
    seconds: float
    claimed: dict[int, float] = field(default_factory=dict)


def search(
    contestant: str,
    grid: MeasuredGrid,
    seed: int,
    budget: int,
    others: Sequence[MeasuredGrid] = (),
    *,
    certified_at: Sequence[int] = (),
) -> Search:
    """Search a grid.

    Args:
        budget: configs to launch.
        certified_at: launches after which certificates are asked for.
        others: grids that may teach a contestant that learns from others.

    Raises:
        KeyError: no contestant is called so.
    """
    budget = min(budget, int(grid.grid.valid.sum()) + len(grid.first), SMALLER_BUDGET.get(contestant, budget))
    if contestant in OPTUNA:
        optimisation = Optimisation(contestant, grid, seed, others)
        claimed = {}
        for launches in range(1, budget + 1):
            try:
                optimisation.launch()
            except AssertionError:
                if contestant not in FRAGILE:
                    raise
                break
            if launches in certified_at and isinstance(optimisation.sampler, FiniteGridSampler):
                claimed[launches] = certify(optimisation.sampler, optimisation.study).probability
        return Search(optimisation.launched, optimisation.seconds, claimed)
    return _with_kernel_tuner(KERNEL_TUNER[contestant], grid, seed, budget)


def installed(contestant: str) -> bool:
    """Whether a contestant's library is there."""
    try:
        version("kernel_tuner" if contestant in KERNEL_TUNER else "optuna")
    except PackageNotFoundError:
        return False
    return True


@cache
def maker(contestant: str) -> str:
    """Return what a contestant's searches follow from, besides grid, seed and budget: its code, as first asked for."""
    if contestant in KERNEL_TUNER:
        return f"kernel_tuner {version('kernel_tuner')}"
    if contestant in ("tpe", "gp"):
        return f"optuna {version('optuna')}"
    sources = sorted(Path(bo_tune.search.__file__).parent.rglob("*.py"))
    return f"bo_tune.search {zlib.crc32(b''.join(source.read_bytes() for source in sources)):08x}"


def teachers(grid: MeasuredGrid, others: Sequence[MeasuredGrid]) -> list[MeasuredGrid]:
    """Return the grids of the same kernel on other GPUs."""
    return [one for one in others if one.kernel == grid.kernel and one.gpu != grid.gpu]


def _prior(grid: MeasuredGrid, others: Sequence[MeasuredGrid]) -> HistoryPrior | None:
    histories = []
    for other in teachers(grid, others):
        ran = np.flatnonzero(np.isfinite(other.times) & other.grid.valid)
        configs = [other.grid[int(index)] for index in ran]
        histories.append(StudyHistory(_features(other, configs), other.times[ran], configs, place=other.gpu))
    return HistoryPrior(histories, place=grid.gpu) if histories else None


def _features(grid: MeasuredGrid, configs: Sequence[Params]) -> np.ndarray:
    return np.zeros((len(configs), 0)) if grid.features is None else grid.features(configs)


class Optimisation:
    """A search of a grid by an Optuna sampler, launch by launch.

    Args:
        name: one of ``OPTUNA``.
        others: grids that may teach it.

    Attributes:
        launched: indices of the configs it launched, in order.
        seconds: of the search itself, without any launch.
    """

    def __init__(self, name: str, grid: MeasuredGrid, seed: int, others: Sequence[MeasuredGrid] = ()) -> None:
        self._grid, self._seed = grid, seed
        default = None if grid.default is None else grid.default[0]
        self.sampler = make_sampler(
            "grid-gp" if name == TAUGHT else name,
            grid.grid,
            default=default,
            features=lambda configs: _features(grid, configs),
            prior=_prior(grid, others) if name == TAUGHT else None,
            seed=seed,
        )
        self.study = optuna.create_study(sampler=self.sampler)
        self._ranges = distributions(grid.grid.dimensions, [default] if default else [])
        for index in grid.first:
            self.study.enqueue_trial(dict(grid.config(index)))
        self.launched: list[int] = []
        self.seconds = 0.0

    def launch(self) -> None:
        """Launch the next config."""
        before = time.perf_counter()
        trial = self.study.ask(self._ranges)
        self.seconds += time.perf_counter() - before
        known = self._grid.grid.index(trial.params)
        self.launched.append(DEFAULT if known is None else known)
        times = self._grid.launch(self.launched[-1], self._seed)
        trial.set_user_attr(RUNTIMES_ATTR, list(times))
        self.study.tell(trial, estimate_us(times) if times else None, state=None if times else TrialState.PRUNED)


def _with_kernel_tuner(strategy: str, grid: MeasuredGrid, seed: int, budget: int) -> Search:
    """Run a strategy in simulation mode, on a cache file that holds what each launch would come to."""
    from kernel_tuner import tune_kernel  # noqa: PLC0415 - an optional rival

    values = {name: list(levels) for name, levels in grid.grid.dimensions.items()}
    allowed = {tuple(config.values()) for index, config in enumerate(grid.grid) if grid.grid.valid[index]}

    def may_run(*given: Any) -> bool:
        """Kernel Tuner asks with all values in their order, or with one dict of them."""
        return (tuple(given[0][name] for name in values) if isinstance(given[0], dict) else given) in allowed

    random.seed(seed)
    np.random.seed(seed)
    with tempfile.TemporaryDirectory() as folder, _quietly():
        cache = Path(folder) / "cache.json"
        cache.write_text(json.dumps(_cache(grid, seed, values), separators=(",", ":")))
        before = time.perf_counter()
        results, _ = tune_kernel(
            "kernel",
            "",
            1,
            [],
            values,
            restrictions=[may_run],
            strategy=strategy,
            strategy_options={"max_fevals": budget - len(grid.first)},
            simulation_mode=True,
            cache=str(cache),
            verbose=False,
            quiet=True,
        )
        seconds = time.perf_counter() - before
    found = [grid.grid.index({name: result[name] for name in values}) for result in results]
    return Search(list(dict.fromkeys([*grid.first, *(i for i in found if i is not None)]))[:budget], seconds)


def _cache(grid: MeasuredGrid, seed: int, values: dict[str, list[Any]]) -> dict[str, Any]:
    rows = {}
    for index in map(int, np.flatnonzero(grid.grid.valid)):
        config, times = grid.grid[index], grid.launch(index, seed)
        took: float | str = estimate_us(times) if times else "RuntimeFailedConfig"
        spent = dict.fromkeys(("compile_time", "verification_time", "benchmark_time"), 0.0)
        rows[",".join(map(str, config.values()))] = {**config, "time": took, **spent}
    return {
        "device_name": grid.gpu,
        "kernel_name": "kernel",
        "problem_size": 1,
        "tune_params_keys": list(values),
        "tune_params": values,
        "objective": "time",
        "cache": rows,
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let a library print and warn into nothing."""
    with Path(os.devnull).open("w") as nowhere, warnings.catch_warnings(), contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield
