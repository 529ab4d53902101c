"""The surrogate against the truth: what a cold search believes of a measured grid while it searches.

``python benchmarks/surrogate_truth.py FOLDER --grids convolution --seeds 5`` prints, after 20, 40 and 80 launches and
as means over seeds: the regret; where the fastest 1 % of the untried configs stand among all of them by the surrogate's
mean and by expected improvement (0 is first, 1 last); how far the truth lies from the predictions, in predicted
standard deviations (rms over the grid, and the mean over the fastest 1 %: below 0 they are faster than predicted);
noise and length scales of the fit; and the values that the last 20 launches had, as a share of all values there are.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
from contestants import Optimisation
from measured_grids import MeasuredGrid, read_grids

from bo_tune.processes.threads import one_blas_thread
from bo_tune.search import FiniteGridSampler
from bo_tune.search.gp.model import Scale
from bo_tune.search.sampler import log_expected_improvement

CHECKPOINTS = (20, 40, 80)

COLUMNS = ("regret %", "rank by mean", "by EI", "rms z", "z of fastest", "noise", "shortest l", "median l", "values")


def beliefs(grid: MeasuredGrid, seed: int) -> Iterator[list[float]]:
    """Search a grid, and yield a row of ``COLUMNS`` at each checkpoint."""
    search = Optimisation("grid-gp", grid, seed)
    for at in CHECKPOINTS:
        while len(search.launched) < at:
            search.launch()
        yield [
            100.0 * grid.regret(search.launched, seed),
            *belief(grid, search),
            values_of(grid, search.launched[-20:]),
        ]


def belief(grid: MeasuredGrid, search: Optimisation) -> list[float]:
    """Return the figures of the surrogate as it stands."""
    sampler = search.sampler
    assert isinstance(sampler, FiniteGridSampler)
    log = sampler.log(search.study)
    untried = np.flatnonzero(grid.grid.valid & ~log.taken & np.isfinite(grid.times))
    posterior, scale = sampler.model(search.study).posterior(log.observations, untried)
    mean, deviation = posterior.predict(untried)
    score = log_expected_improvement(mean, deviation, float(posterior.targets.min()))
    fastest = np.argsort(grid.times[untried])[: max(1, len(untried) // 100)]
    process = posterior.table.process
    beyond = (targets_of(scale, grid.times[untried]) - mean) / np.hypot(deviation, process.noise)
    ranks = [float(np.median(np.searchsorted(np.sort(by), by[fastest])) / len(untried)) for by in (mean, -score)]
    lengths = process.lengths  # type: ignore[attr-defined]
    spread = float(np.sqrt(np.mean(beyond**2)))
    fit = [process.noise, float(lengths.min()), float(np.median(lengths))]
    return [*ranks, spread, float(beyond[fastest].mean()), *fit]


def targets_of(scale: Scale, times: np.ndarray) -> np.ndarray:
    """Return times as the surrogate sees them."""
    return scale.targets(times)


def values_of(grid: MeasuredGrid, launched: list[int]) -> float:
    """Return how many values some launches had, over how many there are, summed over dimensions."""
    configs = [grid.config(index) for index in launched]
    dimensions = {name: values for name, values in grid.grid.dimensions.items() if len(values) > 1}
    tried = sum(len({config[name] for config in configs}) for name in dimensions)
    return tried / sum(map(len, dimensions.values()))


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grids", default="", help="only grids whose names begin so")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"| grid | launched | {' | '.join(COLUMNS)} |")
    print("|---|---|" + "---|" * len(COLUMNS))
    with one_blas_thread():
        for grid in read_grids(options.folder):
            if grid.name.startswith(options.grids):
                found = np.mean([list(beliefs(grid, seed)) for seed in range(options.seeds)], axis=0)
                for at, figures in zip(CHECKPOINTS, found, strict=True):
                    print(f"| {grid.name} | {at} | {' | '.join(f'{figure:.2f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
