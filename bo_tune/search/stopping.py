"""When to stop: a certificate that nothing much better is left.

Notation: μ, Σ posterior of log time of the untried configs, t log time of the incumbent, x the tolerance.
The certificate is P(no untried config has y < t + log(1 - x)), estimated from draws of the posterior.
"""

from dataclasses import dataclass

import numpy as np
from optuna.study import Study
from scipy.special import log_ndtr

from bo_tune.search.sampler import FiniteGridSampler


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a study has done enough.

    Attributes:
        tolerance: x, a config better by a smaller fraction is not worth looking for.
        risk: stop when the probability of a better one falls under it.
        least: trials to have a value before any stop.
        most: trials with a value at which the study stops anyhow; None for no limit.
    """

    tolerance: float = 0.01
    risk: float = 0.10
    least: int = 8
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known when a study stops.

    Attributes:
        tolerance: x.
        probability: that no untried config is better than the incumbent by more than x.
        tried: trials with a value.
        exhausted: whether nothing was left to try.
    """

    tolerance: float
    probability: float
    tried: int
    exhausted: bool = False

    def __str__(self) -> str:
        return f"within {self.tolerance:.0%} of the grid's best with probability {self.probability:.2f}"


def certify(sampler: FiniteGridSampler, study: Study, tolerance: float = 0.01) -> Certificate:
    """Compute the certificate of a study as it stands.

    The untried configs are taken one by one, P(none better) = Π P(y_i ≥ t'): configs that are alike are counted as if
    they were independent, which errs towards caution.
    """
    log = sampler.log(study)
    known = [o for o in log.observations if o.value is not None]
    candidates = np.flatnonzero(sampler.grid.valid & ~log.taken)
    if not len(candidates):
        return Certificate(tolerance, 1.0, len(known), exhausted=True)
    if not known:
        return Certificate(tolerance, 0.0, 0)
    model = sampler.model(study)
    posterior, scale = model.posterior(log.observations)
    at_known, _ = posterior.predict(posterior.data.points)
    target = float(at_known.min()) + np.log1p(-tolerance) / scale.unit
    mean, deviation = posterior.predict(candidates)
    probability = float(np.exp(log_ndtr((mean - target) / deviation).sum()))
    return Certificate(tolerance, probability, len(known))


def should_stop(rule: StopRule, certificate: Certificate) -> bool:
    """Whether a study with this certificate is done."""
    if certificate.exhausted or (rule.most is not None and certificate.tried >= rule.most):
        return True
    return certificate.tried >= rule.least and 1.0 - certificate.probability < rule.risk
