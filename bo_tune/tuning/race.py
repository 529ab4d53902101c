"""The last step of a study: the best few and the default config, re-measured in turn until their order is certain.

Notation
    a_r, b_r    times of two configs in round r, taken one after the other: whatever drifts, drifts for both
    n, k        rounds in which they differ; those in which a is the faster
    p           P(K ≥ k), K ~ Binomial(n, 1/2): how likely so clear a lead is between equals (the sign test; it knows
                nothing of how times are distributed, and one wild repetition counts as one round)
    a beats b   p < (1 - confidence) / number of finalists

The finalists are timed round by round. After each batch of rounds those that the leader beats leave. It ends when the
leader is alone, when all that stay are as good as equal to it, or when the rounds are used up. The default config is
timed to the end, and is what the study ends with unless the leader beats it.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import bdtrc

from bo_tune.core.conclusion import Agreement
from bo_tune.core.outcome import Launches, estimate_us
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Surroundings
from bo_tune.measure.device import Device, Remeasured
from bo_tune.store.result import ActiveTimes


@dataclass(frozen=True, slots=True)
class Finalists:
    """How finalists are chosen from and re-measured.

    Attributes:
        count: how many of the best configs, besides the default.
        rounds: repetitions of each in one batch.
        most_rounds: repetitions of each at most.
        confidence: that the one chosen is the fastest, but for ``equal_within``.
        equal_within: difference in time, as a share, that is not worth more rounds.
        active: in place, how many adapters steps use: the mean over this mix decides. Nothing for what the device
            measures under.
    """

    count: int = 8
    rounds: int = 20
    most_rounds: int = 200
    confidence: float = 0.95
    equal_within: float = 0.005
    active: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values; no mix where there is none, as before there was any."""
        settings = asdict(self)
        active = settings.pop("active")
        return {**settings, "active": list(active)} if active else settings

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Finalists":
        """Read what ``to_json`` made of them."""
        return cls(**{**stored, "active": tuple(stored.get("active", ()))})


@dataclass(frozen=True, slots=True)
class InPlaceTimes:
    """What a race in place found. Times of one layer in us, base product included.

    Attributes:
        bare_us: of the layer without adapters.
        winner: the config that was chosen; ``time_us`` is its.
        default_time_us: with the default config; None where it cannot run.
        times_us: with each finalist that was timed.
        by_active: where a mix decided, each number of adapters by itself.
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
    """The config a study ends with.

    Attributes:
        time_us: its re-measured time, in us.
        default_time_us: the default config's, re-measured with it; None if the default cannot run.
        times_us: re-measured time of every finalist, in us.
        launches: launches spent on it, by purpose.
        in_place: what decided, where that was a race in place.
    """

    config: dict[str, int]
    time_us: float
    default_time_us: float | None
    times_us: Mapping[ConfigKey, float]
    launches: Launches
    in_place: InPlaceTimes | None = None

    @property
    def choices(self) -> tuple["Choice", ...]:
        """The choice of each kernel, as of a search of several."""
        return (self,)

    @property
    def joint(self) -> None:
        """A kernel alone agrees with no others."""
        return None


class Choices(Protocol):
    """What the studies of one search end with."""

    @property
    def choices(self) -> Sequence[Choice]:
        """One for each kernel."""

    @property
    def joint(self) -> Agreement | None:
        """Where kernels had to agree: what they agree on, as a result tells it."""


def choose(
    device: Device,
    problem: Problem,
    measured: Mapping[ConfigKey, float],
    default: Config,
    finalists: Finalists,
    also: Sequence[ConfigKey] = (),
) -> Choice | None:
    """Re-measure the best configs and the default one; the fastest wins, the default unless it is beaten.

    Args:
        measured: time of every complete trial, in us.
        also: configs that are timed too, however fast they were.

    Returns:
        None where nothing was measured.
    """
    default_key = config_key(default)
    best: Sequence[ConfigKey] = sorted((key for key in measured if key != default_key), key=measured.__getitem__)
    chosen = [default_key] if default_key in measured else []
    chosen += best[: finalists.count]
    chosen += [key for key in also if key not in chosen]
    race = Race(device, problem, finalists, chosen, kept=default_key)
    race.run()
    times = race.times_us
    if not times:
        return None
    winner = race.leader
    if default_key in times and not race.beats(winner, default_key):
        winner = default_key
    return Choice(
        config={name: dict(winner)[name] for name in default},
        time_us=times[winner],
        default_time_us=times.get(default_key),
        times_us=times,
        launches=race.launches,
    )


def beats(a: Sequence[float], b: Sequence[float], risk: float) -> bool:
    """Say whether a is faster than b, by the sign test over the rounds both were timed in.

    Args:
        a: times of one config, round by round.
        b: times of the other; rounds that only one of them has are left out.
        risk: largest p.
    """
    rounds = min(len(a), len(b))
    differences = np.asarray(a[:rounds]) - np.asarray(b[:rounds])
    faster, differing = int((differences < 0).sum()), int((differences != 0).sum())
    return faster > 0 and float(bdtrc(faster - 1, differing, 0.5)) < risk


class Timing(Protocol):
    """What times finalists in turn: a device, alone or in a place."""

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """See ``Device.remeasure``."""


class Race:
    """Finalists timed round by round, losers leaving on the way.

    Args:
        chosen: the finalists.
        kept: the one that is timed to the end.
        group: says of a finalist whom it races against: those of an equal group. All against all by default.

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
    ) -> None:
        self._device, self._problem, self._finalists = device, problem, finalists
        self._kept, self._group = kept, group
        self._running = list(chosen)
        self._runtimes: dict[ConfigKey, tuple[float, ...]] = dict.fromkeys(chosen, ())
        self.launches: Launches = Counter()
        self._risk = (1.0 - finalists.confidence) / max(1, len(chosen))

    def run(self) -> None:
        """Time the finalists until their order is certain."""
        taken = 0
        while self._running and taken < self._finalists.most_rounds and not self._settled(taken):
            rounds = min(self._finalists.rounds, self._finalists.most_rounds - taken)
            batch = self._device.remeasure(self._problem, [dict(k) for k in self._running], rounds, taken=taken)
            for key, runtimes in zip(self._running, batch.runtimes_us, strict=True):
                # One whose result is wrong, or that breaks the device, is out, whatever it took before.
                self._runtimes[key] = self._runtimes[key] + runtimes if runtimes else ()
            self.launches += batch.launches
            taken += rounds
            self._running = [key for key in self._running if self._runtimes[key] and self._stays(key)]

    def _stays(self, key: ConfigKey) -> bool:
        return key == self._kept or not self.beats(self.leader_of(self._group(key)), key)

    def _settled(self, taken: int) -> bool:
        """Say whether more rounds would change nothing worth having."""
        if taken == 0:
            return False
        times, within = self.times_us, 1.0 + self._finalists.equal_within
        leaders = {key: self.leader_of(self._group(key)) for key in self._running}
        return all(
            key == leader or self.beats(leader, key) or times[key] <= within * times[leader]
            for key, leader in leaders.items()
        )

    def beats(self, a: ConfigKey, b: ConfigKey) -> bool:
        """Say whether one finalist is certainly faster than another."""
        return beats(self._runtimes[a], self._runtimes[b], self._risk)

    @property
    def times_us(self) -> dict[ConfigKey, float]:
        """The estimate of each finalist that has a right result."""
        return {key: estimate_us(runtimes) for key, runtimes in self._runtimes.items() if runtimes}

    @property
    def runtimes_us(self) -> Mapping[ConfigKey, tuple[float, ...]]:
        """The repetitions of each finalist, round by round; fewer of those that left."""
        return self._runtimes

    @property
    def leader(self) -> ConfigKey:
        """The fastest of all: of equals the default, then the best so far."""
        times = self.times_us
        return min(times, key=times.__getitem__)

    def leader_of(self, group: Hashable) -> ConfigKey:
        """The fastest of a group."""
        times = {key: time for key, time in self.times_us.items() if self._group(key) == group}
        return min(times, key=times.__getitem__)
