"""Search over finite grids: samplers, the surrogate behind the project's own, priors from other studies, stop rule."""

from bo_tune.core.conclusion import Certificate, StopRule
from bo_tune.search.base import GridExhaustedError, GridSampler
from bo_tune.search.baselines import CoordinateSampler, ExhaustiveSampler, RandomSampler, WrappedSampler
from bo_tune.search.factory import make_sampler
from bo_tune.search.gp.prior import HistoryPrior, StudyHistory
from bo_tune.search.grid import Grid, distributions
from bo_tune.search.sampler import Cost, FiniteGridSampler
from bo_tune.search.stopping import certify

__all__ = [
    "Certificate",
    "CoordinateSampler",
    "Cost",
    "ExhaustiveSampler",
    "FiniteGridSampler",
    "Grid",
    "GridExhaustedError",
    "GridSampler",
    "HistoryPrior",
    "RandomSampler",
    "StopRule",
    "StudyHistory",
    "WrappedSampler",
    "certify",
    "distributions",
    "make_sampler",
]
