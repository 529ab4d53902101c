"""The last step of a study: the best few configs and the default, re-measured in turn until their order is certain.

Notation
    a_r, b_r    times of two configs in round r, taken one after the other: whatever drifts, drifts for both
    n, k        rounds in which they differ; those in which a is the faster
    p           P(K ≥ k), K ~ Binomial(n, 1/2): how likely so clear a lead is between equals (the sign test; it assumes
                nothing about how times are distributed, and one wild repetition counts as one round)
    a beats b   p < (1 - confidence) / number of finalists
    d, s        log of b's time over a's, by their estimates, and the standard error of d, by the spread of the rounds
    loss        E[max(0, -D)] with D ~ N(d, s): what is lost on average, as a share of the time, by taking a for the
                faster

The finalists are timed round by round. After each batch of rounds, a finalist leaves if the leader beats it, or if
dropping it would cost next to nothing. The race ends when the leader is alone, when all that stay are practically equal
to it, when taking the leader loses no more than ``AT_STAKE``, or when the rounds are used up: if configs differ by less
than the noise, it does not matter which is chosen.

The default config is timed to the end, and the study ends with it unless the leader beats it. So the race also goes on
while staying with the default would lose more than that. If an engine may run something else untuned
(``KernelSpec.rivals``), the fastest of these configs takes the default's part.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bo_tune.core.conclusion import Agreement
from bo_tune.core.outcome import Launches, estimate_us, latest_us, quantile
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Surroundings
from bo_tune.measure.device import Device, Remeasured
from bo_tune.processes.importing import LateModule
from bo_tune.store.result import ActiveTimes
from bo_tune.tuning.settings import Finalists

_special = LateModule("scipy.special")


AT_STAKE = 0.0003
"""Loss at which a race ends. On the 31 bundled recordings, with their noise (``benchmarks/races.py``), races take half
the repetitions that a certain order needs, and choose configs slower by 0.04 ± 0.01 %; by 0.06 ± 0.01 than races did in
batches of 20. The threshold was chosen on these recordings."""

QUARTILES_APART = 1.349
"""The quartiles of a normal variable are this many standard deviations apart."""

MEDIAN_ERROR = 1.25
"""Standard error of a median over that of a mean."""

FEWEST_PAIRS = 4
"""The spread of the difference of two configs is known once both were launched on time in this many rounds."""

LEAST_ROUNDS = 8
"""Fewest rounds of a batch: fewer never show that one of a dozen configs beats another."""


@dataclass(frozen=True, slots=True)
class InPlaceTimes:
    """The result of a race in place. Times of one layer in us, base product included.

    Attributes:
        bare_us: of the layer without adapters.
        winner: the config that was chosen; ``time_us`` is its time.
        default_time_us: with the default config; None if it cannot run.
        times_us: with each finalist that was timed.
        by_active: if a mix decided, the times with each number of adapters by itself.
    """

    around: Surroundings
    bare_us: float
    winner: ConfigKey
    time_us: float
    default_time_us: float | None
    times_us: dict[ConfigKey, float]
    by_active: tuple[ActiveTimes, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The config that a study ends with.

    Attributes:
        time_us: its re-measured time, in us.
        default_time_us: the default config's time, re-measured with it; None if the default cannot run.
        times_us: re-measured time of every finalist, in us.
        launches: launches spent on choosing, by purpose.
        in_place: the times that decided, if that was a race in place.
    """

    config: dict[str, int]
    time_us: float
    default_time_us: float | None
    times_us: Mapping[ConfigKey, float]
    launches: Launches
    in_place: InPlaceTimes | None = None

    @property
    def choices(self) -> tuple["Choice", ...]:
        """The choice of each kernel, as for a search of several kernels."""
        return (self,)

    @property
    def joint(self) -> None:
        """None, because a kernel alone agrees with no others."""
        return None


class Choices(Protocol):
    """The choices that the studies of one search end with."""

    @property
    def choices(self) -> Sequence[Choice]:
        """One choice for each kernel."""

    @property
    def joint(self) -> Agreement | None:
        """The agreement of the kernels, as stored with a result; None if they need not agree."""


def choose(
    device: Device,
    problem: Problem,
    measured: Mapping[ConfigKey, float],
    default: Config,
    finalists: Finalists,
    also: Sequence[ConfigKey] = (),
    rivals: Sequence[ConfigKey] = (),
) -> Choice | None:
    """Re-measure the best configs and the default. The fastest wins; the default stays unless it is beaten.

    Args:
        measured: time of every complete trial, in us.
        also: configs that are timed too, however fast they were.
        rivals: other configs that may run untuned. Those that were measured are timed too, and the fastest of them and
            the default stays unless it is beaten.

    Returns:
        None if nothing was measured.
    """
    default_key = config_key(default)
    best: Sequence[ConfigKey] = sorted((key for key in measured if key != default_key), key=measured.__getitem__)
    chosen = [default_key] if default_key in measured else []
    chosen += best[: finalists.count]
    known = [key for key in rivals if key in measured]
    chosen += [key for key in dict.fromkeys((*also, *known)) if key not in chosen]
    race = Race(device, problem, finalists, chosen, kept=default_key, rivals=known)
    race.run()
    times = race.times_us
    if not times:
        return None
    winner, untuned = race.leader, race.untuned
    if untuned is not None and not race.beats(winner, untuned):
        winner = untuned
    return Choice(
        config={name: dict(winner)[name] for name in default},
        time_us=times[winner],
        default_time_us=times.get(default_key),
        times_us=times,
        launches=race.launches,
    )


def beats(a: Sequence[float], b: Sequence[float], risk: float) -> bool:
    """Say whether a is faster than b, by the sign test over the rounds in which both were timed.

    Args:
        a: times of one config, round by round.
        b: times of the other. Rounds that only one of them has are left out.
        risk: largest p.
    """
    rounds = min(len(a), len(b))
    differences = np.asarray(a[:rounds]) - np.asarray(b[:rounds])
    faster, differing = int((differences < 0).sum()), int((differences != 0).sum())
    return faster > 0 and float(_special.bdtrc(faster - 1, differing, 0.5)) < risk


def loss(a: Sequence[float], b: Sequence[float]) -> float:
    """Return what is lost on average, as a share of the time, by taking a for faster than b.

    Args:
        a: times of one config, round by round, at least one.
        b: times of the other. Rounds that only one of them has are left out.
    """
    first, second = latest_us(a), latest_us(b)
    pairs = [(x, y) for x, y in zip(a, b, strict=False) if x <= first and y <= second]
    if len(pairs) < FEWEST_PAIRS:
        return math.inf
    differences = sorted(math.log(y / x) for x, y in pairs)
    rounds = min(len(a), len(b))
    lead = math.log(estimate_us(b[:rounds]) / estimate_us(a[:rounds]))
    quartiles = quantile(differences, 0.75) - quantile(differences, 0.25)
    mean = math.fsum(differences) / len(differences)
    deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in differences) / len(differences))
    spread = max(quartiles / QUARTILES_APART, 0.5 * deviation)
    error = MEDIAN_ERROR * spread / math.sqrt(len(differences))
    if error == 0.0:
        return max(0.0, -lead)
    z = lead / error
    return error * (math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) - 0.5 * z * math.erfc(z / math.sqrt(2)))


class Timing(Protocol):
    """Times finalists in turn: a device, either alone or in a place."""

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """See ``Device.remeasure``."""


class Race:
    """Times finalists round by round. Losers leave on the way.

    Args:
        chosen: the finalists.
        kept: the config that is timed to the end: the default.
        rivals: configs of which the fastest is also timed to the end, if it is faster than the default.
        group: returns a finalist's group. Finalists race only within their group; by default all are in one.

    Attributes:
        launches: launches so far, by purpose.
    """

    def __init__(
        self,
        device: Timing,
        problem: Problem,
        finalists: Finalists,
        chosen: Sequence[ConfigKey],
        kept: ConfigKey,
        group: Callable[[ConfigKey], Hashable] = lambda _: None,
        rivals: Sequence[ConfigKey] = (),
    ) -> None:
        self._device, self._problem, self._finalists = device, problem, finalists
        self._kept, self._group, self._rivals = kept, group, rivals
        self._running = list(chosen)
        self._runtimes: dict[ConfigKey, tuple[float, ...]] = dict.fromkeys(chosen, ())
        self._estimates: dict[ConfigKey, float] | None = None
        self.launches: Launches = Counter()
        self._batch = max(min(LEAST_ROUNDS, finalists.rounds), finalists.rounds // 2)
        self._risk = (1.0 - finalists.confidence) / max(1, len(chosen))
        self._next_to_no_loss = AT_STAKE / max(1, len(chosen))

    def run(self) -> None:
        """Time the finalists until their order is certain."""
        taken = 0
        while self._running and taken < self._finalists.most_rounds and not self._settled(taken):
            rounds = min(self._batch, self._finalists.most_rounds - taken)
            batch = self._device.remeasure(self._problem, [dict(k) for k in self._running], rounds, taken=taken)
            for key, runtimes in zip(self._running, batch.runtimes_us, strict=True):
                # A finalist whose result is wrong, or that breaks the device, is out, whatever its times were before.
                self._runtimes[key] = self._runtimes[key] + runtimes if runtimes else ()
            self._estimates = None
            self.launches += batch.launches
            taken += rounds
            # If a finalist proves wrong, those that it may have driven out are back.
            field = self._running if all(self._runtimes[key] for key in self._running) else list(self._runtimes)
            self._running = [key for key in field if self._runtimes[key] and self._stays(key)]

    def _stays(self, key: ConfigKey) -> bool:
        leader = self.leader_of(self._group(key))
        if key in (self._kept, leader, self.untuned):
            return True
        return not self.beats(leader, key) and self._loss(leader, key) >= self._next_to_no_loss

    def _settled(self, taken: int) -> bool:
        """Say whether more rounds would change nothing worth having."""
        if taken == 0:
            return False
        times, within = self.times_us, 1.0 + self._finalists.equal_within
        leaders = {key: self.leader_of(self._group(key)) for key in self._running}
        untuned = self.untuned
        if untuned in leaders:
            leaders[untuned] = self.leader  # compared with it in the end, whatever the group
        close = {key: leader for key, leader in leaders.items() if key != leader and not self.beats(leader, key)}
        if all(times[key] <= within * times[leader] for key, leader in close.items()):
            return True
        if untuned is not None and untuned in close and self._loss(untuned, close.pop(untuned)) >= AT_STAKE:
            return False
        return sum(self._loss(leader, key) for key, leader in close.items()) < AT_STAKE

    def _loss(self, a: ConfigKey, b: ConfigKey) -> float:
        return loss(self._runtimes[a], self._runtimes[b])

    def beats(self, a: ConfigKey, b: ConfigKey) -> bool:
        """Say whether one finalist is certainly faster than another."""
        return beats(self._runtimes[a], self._runtimes[b], self._risk)

    @property
    def times_us(self) -> dict[ConfigKey, float]:
        """The estimate of each finalist that has a right result."""
        if self._estimates is None:
            self._estimates = {key: estimate_us(runtimes) for key, runtimes in self._runtimes.items() if runtimes}
        return dict(self._estimates)

    @property
    def runtimes_us(self) -> Mapping[ConfigKey, tuple[float, ...]]:
        """The repetitions of each finalist, round by round. Those that left have fewer."""
        return self._runtimes

    @property
    def untuned(self) -> ConfigKey | None:
        """The fastest config that may run untuned: the default or a rival. None if none of them can run."""
        times = self.times_us
        return min((key for key in (self._kept, *self._rivals) if key in times), key=times.__getitem__, default=None)

    @property
    def leader(self) -> ConfigKey:
        """The fastest of all. Of equals, it is the default, then the best so far."""
        times = self.times_us
        return min(times, key=times.__getitem__)

    def leader_of(self, group: Hashable) -> ConfigKey:
        """The fastest of a group."""
        times = {key: time for key, time in self.times_us.items() if self._group(key) == group}
        return min(times, key=times.__getitem__)
