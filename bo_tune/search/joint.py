"""Searching several kernels that must agree on one parameter, by one surrogate each.

Notation
    k           a kernel; c a config of it, b(c) its value of the shared parameter
    f_k(c)      noiseless time of c, in us; log f_k is a Gaussian process given the study of k (see ``surrogate``)
    m_k(b)      least measured time of kernel k at b, in us; infinite where none is known
    p_k(b)      what kernel k may come to at b: m_k(b), or the least μ - h·σ of an untried config, if less
    μ, σ, h     predicted mean and standard deviation of log f_k; hope
    J           min_b Σ_k m_k(b), the objective as it stands

For one b the other parameters of the kernels are separable: there is nothing to learn of kernel j from a trial of k.
So each has a surrogate of its own, over its own grid, and a trial is one config of one kernel. Config c of k is worth
trying if it is faster than

    t_k(b) = min(m_k(b), J - Σ_{j ≠ k} p_j(b)),   b = b(c)

that is, faster than the best of k at b, and fast enough for b to win with what the other kernels may come to there.
The config of the largest expected improvement on its target is tried next, in us, so that kernels compare; by the log
normal's first order, E[(t - f)⁺] ≈ t · E[(log t - log f)⁺].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from bo_tune.core.conclusion import Certificate
from bo_tune.search.gp.correlation import Array, Indices
from bo_tune.search.gp.model import Scale
from bo_tune.search.gp.posterior import Posterior
from bo_tune.search.gp.prior import SQUEEZE
from bo_tune.search.sampler import FiniteGridSampler, log_expected_improvement
from bo_tune.search.stopping import DRAWS, drawn

HOPE = 0.5
"""h, calibrated on replayed grids: with none a search stays with the first value that it knows of every kernel, with
more it goes from value to value."""

BEST_OF_EACH = 3
"""Tried configs of each kernel and value that are drawn."""

LIKELIEST_OF_EACH = 24
"""Untried configs of each kernel and value that are drawn."""

LARGEST_LOG = 700.0


@dataclass(frozen=True)
class Member:
    """One kernel's study as it stands: what is known of each value of the shared parameter.

    Attributes:
        values: of the shared parameter, one for each of the surrogate's points.
        untried: configs that may be proposed, ascending.
        posterior: of log time.
        scale: of the posterior's targets.
        measured: m_k, by value.
        log_weight: what is added to the logarithm of the expected improvement of each untried config, for how likely
            it is to be valid and what trying it costs.
        tried: trials with a time.
        seed: of the sampler.
        taught: whether the sampler was given other studies to learn from.
    """

    values: Array
    untried: Indices
    posterior: Posterior
    scale: Scale
    measured: Mapping[int, float]
    log_weight: Array
    tried: int
    seed: int
    taught: bool

    @classmethod
    def of(cls, sampler: FiniteGridSampler, study: Study, shared: str) -> "Member":
        """Read a study, at least one trial of which has a time."""
        log = sampler.log(study)
        points = sampler.model(study).points(log.observations)
        values = np.zeros(len(points.inputs))
        values[: len(sampler.grid)] = [config[shared] for config in sampler.grid.configs]
        for observation in log.observations:
            values[points.index(observation)] = observation.params[shared]
        untried = np.flatnonzero(sampler.grid.valid & ~log.taken)
        posterior, scale = sampler.model(study).posterior(log.observations, untried, log.pending)
        measured: dict[int, float] = {}
        known = [o for o in log.observations if o.value is not None]
        for observation in known:
            value, time = observation.params[shared], observation.value
            assert isinstance(value, int)
            assert time is not None
            if not observation.stopped:
                measured[value] = min(time, measured.get(value, inf))
        weight = sampler.model(study).log_valid(log.observations, untried) - sampler.log_price(untried)
        return cls(values, untried, posterior, scale, measured, weight, len(known), sampler.seed, sampler.taught)

    @cached_property
    def predicted(self) -> tuple[Array, Array]:
        """Mean and standard deviation of the untried configs' targets."""
        return self.posterior.predict(self.untried)

    @cached_property
    def potential(self) -> Mapping[int, float]:
        """p_k by value; values of which nothing is known and nothing left are absent."""
        found = dict(self.measured)
        mean, deviation = self.predicted
        hoped = times(self.scale, mean - HOPE * deviation)
        for value in np.unique(self.values[self.untried]):
            least = float(hoped[self.values[self.untried] == value].min())
            found[int(value)] = min(least, found.get(int(value), inf))
        return found

    def best_offer(self, targets: Mapping[int, float]) -> tuple[float, int] | None:
        """Return the weighted log expected improvement of the best untried config, and its index; None without a
        chance.

        Args:
            targets: t_k by value.
        """
        found = self.improvements(targets)
        if found is None:
            return None
        score, hopeful = found[0] + self.log_weight[found[1]], found[1]
        best = int(np.argmax(score))
        return float(score[best]), int(self.untried[hopeful[best]])

    def improvements(self, targets: Mapping[int, float]) -> tuple[Array, Indices] | None:
        """Return the log expected improvements, in us, of the untried configs that have a chance, and which of
        ``untried`` those are; None where there are none.

        Args:
            targets: t_k by value.
        """
        at = self.values[self.untried]
        target = np.zeros(len(at))
        for value, time in targets.items():
            target[at == value] = time
        hopeful = np.flatnonzero(target > 0)
        if not len(hopeful):
            return None
        mean, deviation = self.predicted
        aims = self.scale.targets(target[hopeful])
        score = log_expected_improvement(mean[hopeful], deviation[hopeful], aims)
        # From the units of aims to us.
        score += np.log(target[hopeful]) + np.maximum(aims / SQUEEZE - 1.0, 0.0)
        return score, hopeful


def times(scale: Scale, targets: Array) -> Array:
    """Return the times, in us, that a surrogate's targets stand for: the inverse of ``Scale.targets``.

    Beyond any time that is ever measured it is only as large as numbers go.
    """
    over = np.clip(targets - SQUEEZE, 0.0, 10.0 * SQUEEZE)
    raw = np.where(over > 0, SQUEEZE + SQUEEZE * np.expm1(over / SQUEEZE), targets) * scale.unit + scale.shift
    return np.asarray(np.exp(np.minimum(raw, LARGEST_LOG)) if scale.log else raw)


def objective(measured: Sequence[Mapping[int, float]]) -> float:
    """J; infinite while no value is known of every kernel."""
    values = set.intersection(*(set(m) for m in measured))
    return min((sum(m[value] for m in measured) for value in values), default=inf)


def next_config(members: Sequence[Member], willing: Sequence[bool]) -> tuple[int, int] | None:
    """Return the kernel to try next, and the grid index of its config; None where nothing is left that could help.

    That is so before the grids are exhausted, too: where no value of the shared parameter can win any more, whatever
    one kernel may come to there.

    Args:
        willing: whether a config of each kernel may be proposed.
    """
    best = objective([member.measured for member in members])
    offers = []
    for k, member in enumerate(members):
        if not willing[k] or not len(member.untried):
            continue
        others = [other.potential for j, other in enumerate(members) if j != k]
        offer = member.best_offer(_targets(member, others, best))
        if offer is not None:
            offers.append((offer[0], -k, offer[1]))
    if not offers:
        return None
    _, kernel, index = max(offers)
    return -kernel, index


def _targets(member: Member, others: Sequence[Mapping[int, float]], best: float) -> dict[int, float]:
    """t_k by value. While J is infinite the kernel is improved on its own."""
    own = min(member.measured.values(), default=inf)
    found = {}
    for value in member.potential:
        if best < inf:
            rest = best - sum(other.get(value, inf) for other in others)
            found[value] = min(member.measured.get(value, inf), rest)
        else:
            found[value] = min(own, member.measured.get(value, inf))
    return {value: target for value, target in found.items() if 0 < target < inf}


def certify_jointly(members: Sequence[Member], tolerance: float, *, with_loss: bool = False) -> Certificate:
    """Return how sure it is that no untried combination is better than the best measured one by more than tolerance.

    From draws of the kernels' posteriors, which are independent of each other. Depends on the studies' content and the
    seed alone. Its ``tried`` is that of a kernel on average. See ``certify`` for ``with_loss``.
    """
    tried = sum(member.tried for member in members) // len(members)
    taught = all(member.taught for member in members)
    if not any(len(member.untried) for member in members):
        return Certificate(tolerance, 1.0, tried, exhausted=True, taught=taught)
    if objective([member.measured for member in members]) == inf:
        return Certificate(tolerance, 0.0, tried, taught=taught)
    rng = np.random.default_rng([members[0].seed, sum(member.tried for member in members)])
    draws = [_draw(member, rng) for member in members]
    values = sorted(set().union(*(member.potential for member in members)))
    known, possible = (
        np.min([np.sum([d[which].get(v, _NEVER) for d in draws], axis=0) for v in values], axis=0) for which in (0, 1)
    )
    probability = float(np.mean(possible >= (1.0 - tolerance) * known))
    loss = _expected_loss(members) if with_loss else None
    return Certificate(tolerance, probability, tried, taught=taught, expected_loss=loss)


def _expected_loss(members: Sequence[Member]) -> float:
    """Return the share by which one more config is expected to lower the best sum, of the kernel where it is most."""
    best = objective([member.measured for member in members])
    return max(_improvements(members, best), default=0.0) / best


def _improvements(members: Sequence[Member], best: float) -> Iterator[float]:
    """Yield, for each kernel, by how much one more of its configs is expected to lower the best sum, in us."""
    for k, member in enumerate(members):
        others = [other.potential for j, other in enumerate(members) if j != k]
        found = member.improvements(_targets(member, others, best)) if len(member.untried) else None
        if found is not None:
            yield float(np.exp(found[0].max()))


_NEVER = np.full(DRAWS, inf)


def _draw(member: Member, rng: np.random.Generator) -> tuple[dict[int, Array], dict[int, Array]]:
    """Draw, by value, the least time of the tried configs, and that of all configs, in us, ``[DRAWS]`` each."""
    posterior, values = member.posterior, member.values
    tried = np.unique(posterior.table.points)
    mean, _ = posterior.predict(tried)
    best = [lowest(tried, mean, values[tried] == value, BEST_OF_EACH) for value in member.measured]
    mean, deviation = member.predicted
    at = values[member.untried]
    likely = mean - 2.0 * deviation
    likeliest = [lowest(member.untried, likely, at == value, LIKELIEST_OF_EACH) for value in np.unique(at)]
    chosen = np.concatenate([*best, *likeliest])
    drawn_us = times(member.scale, drawn(posterior, chosen, rng))
    known = np.arange(len(chosen)) < sum(map(len, best))
    at = values[chosen]
    of_tried = {value: drawn_us[:, known & (at == value)].min(axis=1) for value in member.measured}
    of_all = {int(value): drawn_us[:, at == value].min(axis=1) for value in np.unique(at)}
    return of_tried, of_all


def lowest(points: Indices, score: Array, among: NDArray[np.bool_], count: int) -> Indices:
    """Return the points of the lowest scores among some."""
    where = np.flatnonzero(among)
    return points[where[np.argsort(score[where], kind="stable")[:count]]]
