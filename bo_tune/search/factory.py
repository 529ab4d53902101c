"""Samplers by name."""

from collections.abc import Callable, Mapping, Sequence

from optuna.samplers import GPSampler, TPESampler

from bo_tune.core.choices import SAMPLERS
from bo_tune.search.base import GridSampler
from bo_tune.search.baselines import CoordinateSampler, ExhaustiveSampler, RandomSampler, WrappedSampler
from bo_tune.search.gp.model import Features
from bo_tune.search.gp.prior import HistoryPrior
from bo_tune.search.grid import Grid, Params, Value
from bo_tune.search.sampler import Cost, FiniteGridSampler


def make_sampler(
    name: str,
    grid: Mapping[str, Sequence[Value]] | Grid,
    *,
    default: Params | None = None,
    valid: Callable[[dict[str, Value]], bool] | None = None,
    features: Features | None = None,
    is_generic: bool = False,
    prior: HistoryPrior | None = None,
    first: Sequence[Params] = (),
    cost: Cost | None = None,
    seed: int = 0,
) -> GridSampler:
    """Build a sampler.

    Args:
        name: one of ``SAMPLERS``.
        grid: parameter name to values, or a ``Grid`` (then ``valid`` is ignored: the grid has its own).
        default: where coordinate descent starts.
        valid: predicate of configs; those it refuses are never proposed.
        features, is_generic, prior, first, cost: what ``grid-gp`` knows beside the grid; the others ignore them.
        seed: of all random choices.

    Raises:
        ValueError: for an unknown name.
    """
    shared = grid if isinstance(grid, Grid) else Grid(grid, valid)
    match name:
        case "grid-gp":
            return FiniteGridSampler(
                shared, features=features, is_generic=is_generic, prior=prior, first=first, cost=cost, seed=seed
            )
        case "random":
            return RandomSampler(shared, seed=seed)
        case "tpe":
            return WrappedSampler(shared, TPESampler, tries=10, seed=seed)
        case "gp":
            return WrappedSampler(shared, GPSampler, seed=seed)
        case "coordinate" | "coordinate-restarts":
            return CoordinateSampler(shared, start=default, restarts=name != "coordinate", seed=seed)
        case "grid":
            return ExhaustiveSampler(shared, seed=seed)
        case _:
            raise ValueError(f"unknown sampler {name!r}: expected one of {', '.join(SAMPLERS)}")
