"""When to stop: a certificate that nothing much better is left.

Notation
    f           noiseless log time, jointly normal over tried and untried configs given the study (see ``surrogate``)
    x           tolerance: a config better by a smaller fraction is not worth looking for
    certificate P(min over untried f ≥ min over tried f + log(1 - x))

The probability is estimated from draws of the joint posterior of the likeliest untried configs and the best tried ones,
so configs that are alike are not counted twice. The posterior's deviations are widened first: the hyperparameters are a
point estimate, which makes any Gaussian process surer than it should be, and where nothing that was made for the kernel
describes its configs, times jump where it expects them to be smooth.
"""

import numpy as np
from optuna.study import Study

from bo_tune.core.conclusion import Certificate
from bo_tune.processes.importing import LateModule
from bo_tune.search.gp.correlation import Array, Indices
from bo_tune.search.gp.posterior import Posterior
from bo_tune.search.sampler import FiniteGridSampler, log_expected_improvement

_lapack = LateModule("scipy.linalg.lapack")
_blas = LateModule("scipy.linalg.blas")

CAUTION_TAUGHT = 1.6
CAUTION_UNDESCRIBED = 2.0
CAUTION = 1.3
"""Factors on the posterior's standard deviations: with other studies, without features that were made for the kernel,
and else. They are chosen so that certificates on the bundled grids do not claim more than they keep
(``benchmarks/results/samplers*.md``).
At 1.2 with other studies, only 5 of the 8 H200 studies that were claimed at 0.92 were right: the others agreed on an
optimum that those did not share. At 1.6 without features, 85 to 89 % of those claimed at 0.97 were so on public grids
(``benchmarks/results/cold.md``). At 1.3 with features that would describe any kernel, seven of ten searches of an
attention ended after 25 configs, 22 % off (``benchmarks/results/drop-in.h200.md``)."""

LIKELIEST = 128
"""Untried configs that are drawn."""

BEST = 6
"""Tried configs that are drawn."""

DRAWS = 400


def certify(
    sampler: FiniteGridSampler, study: Study, tolerance: float = 0.01, *, with_loss: bool = False
) -> Certificate:
    """Compute the certificate of a study as it stands; it depends on the seed and the study's content alone.

    Running trials count as untried.

    Args:
        with_loss: whether to say what loss is to be expected, which no stop rule asks for.
    """
    log = sampler.log(study)
    tried = [o for o in log.observations if o.value is not None]
    untried = np.flatnonzero(sampler.grid.valid & ~log.finished)
    if not len(untried):
        return Certificate(tolerance, 1.0, len(tried), exhausted=True)
    if not tried:
        return Certificate(tolerance, 0.0, 0)
    posterior, scale = sampler.model(study).posterior(log.observations, untried)
    rng = np.random.default_rng([sampler.seed, len(tried)])
    step = float(-np.log1p(-tolerance)) / scale.unit
    probability = none_better(posterior, untried, step, rng)
    loss = float(np.expm1(scale.unit * improvement(posterior, untried))) if with_loss else None
    return Certificate(tolerance, probability, len(tried), taught=sampler.taught, expected_loss=loss)


def improvement(posterior: Posterior, untried: Indices) -> float:
    """E[how far f falls below that of the best observed point], of the untried point where that is most.

    By the posterior as it is: widened, or of the least of many draws, it claims many times what turns out to be left.
    """
    best = float(posterior.predict(posterior.table.points)[0].min())
    return float(np.exp(log_expected_improvement(*posterior.predict(untried), best).max()))


def none_better(posterior: Posterior, untried: Indices, step: float, rng: np.random.Generator) -> float:
    """P(no untried point is lower than the best observed one by more than step), from draws."""
    tried = posterior.table.points
    mean, _ = posterior.predict(tried)
    best = tried[lowest_of(mean, BEST)]
    lowest = float(mean.min()) - step
    mean, deviation = posterior.predict(untried)
    likeliest = untried[lowest_of((mean - lowest) / deviation, LIKELIEST)]
    draws = drawn(posterior, np.concatenate([best, likeliest]), rng)
    return float(np.mean(draws[:, len(best) :].min(axis=1) >= draws[:, : len(best)].min(axis=1) - step))


def lowest_of(scores: Array, count: int) -> Indices:
    """Return where the lowest scores stand, in ascending order: so many of them, of equal ones the first."""
    if len(scores) <= count:
        return np.argsort(scores, kind="stable")
    among = np.flatnonzero(scores <= np.partition(scores, count - 1)[count - 1])
    return among[np.argsort(scores[among], kind="stable")[:count]]


def drawn(posterior: Posterior, points: Indices, rng: np.random.Generator) -> Array:
    """Draw the noiseless values at points, with widened deviations, ``[DRAWS, len(points)]``."""
    mean, covariance = posterior.joint(points)
    covariance.flat[:: len(points) + 1] += 1e-6 * float(covariance.diagonal().max())
    covariance *= caution(posterior) ** 2
    root, failed = _lapack.dpotrf(covariance.T, lower=1, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError("the covariance of a certificate's draws is not positive definite")
    normal = rng.standard_normal((DRAWS, len(mean)))
    # Of the product with a triangle, half.
    draws = _blas.dtrmm(1.0, root, normal.T, lower=1, overwrite_b=1).T
    draws += mean
    return np.asarray(draws)


def caution(posterior: Posterior) -> float:
    """Return the factor on a posterior's standard deviations."""
    process = posterior.table.process
    if process.taught:
        return CAUTION_TAUGHT
    return CAUTION if process.described else CAUTION_UNDESCRIBED
