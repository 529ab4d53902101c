"""The race in place: configs that come near the best alone are timed where an engine runs them.

"Alone" means behind a cleared cache, with nothing else on the GPU. In an engine, weights are cold, activations are
warm, and each kernel meets the end of the one before it or runs beside another. So trials stay as they are, and the
layer decides between the configs that come near the best.

We looked at how near they have to come on an H200, over 49 problems (``benchmarks/results/in-place.h200.md``). On one
stream, the best of the twelve fastest was within 1 % of the best of 52 for all 28 problems. On two streams, where
adapters run beside the base product, the order alone says little about the order in place: the best of the forty
fastest was within 1 % for 19 of 21 problems, that of the twelve fastest for 16.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bo_tune.core.outcome import Invalid, Launches, LaunchPurpose, estimate_us
from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Linear, Surroundings
from bo_tune.errors import DeviceError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Device, Remeasured
from bo_tune.store.result import ActiveTimes
from bo_tune.tuning.race import Choice, InPlaceTimes, Race
from bo_tune.tuning.settings import Finalists


@dataclass(frozen=True, slots=True)
class Entrants:
    """Limits on the configs that are timed in place.

    Attributes:
        count: how many, the fastest alone.
        near: none that takes longer than this times the fastest.
    """

    count: int
    near: float


ONE_STREAM, TWO_STREAMS = Entrants(12, 1.15), Entrants(40, 1.5)

FIRST_ROUNDS, KEPT = 3, 6
"""Replays of each config in the first round, and how many configs then stay. A replay is a mean over several
launches."""

ROUNDS, MOST_ROUNDS = 8, 64
"""Replays of each config that stays: in one batch, and at most."""

TOLD = 2
"""This many of the fastest alone are timed alone again, besides the layer's choice and the default."""


def surroundings_in(linear: Linear, problem: LoraProblem, device: Device, active: tuple[int, ...] = ()) -> Surroundings:
    """Return what a kernel runs among in a layer: the layer's other kernel, with its default config, compiled.

    Args:
        active: how many adapters steps use.

    Raises:
        DeviceError: the default config of the other kernel cannot be compiled.
    """
    beside = linear.beside(problem)
    config = device.default_config(kernel_spec(beside.kernel), beside)
    build = device.compile(beside, config).result()
    if isinstance(build, Invalid):
        raise DeviceError(f"{beside}: the default config does not compile: {build.detail or build.reason.value}")
    return Surroundings(linear, {beside.kernel: config}, active)


class There:
    """A device that times configs in a layer, and keeps the times of the layer without adapters.

    Args:
        problems: of the kernels whose configs are chosen.
        split: splits a config that races into a config for every problem.
    """

    def __init__(
        self,
        device: Device,
        problems: Sequence[Problem],
        around: Surroundings,
        split: Callable[[Config], Sequence[Config]] = lambda config: (config,),
    ) -> None:
        self._device, self._problems, self._around, self._split = device, problems, around, split
        self.bare_us: tuple[float, ...] = ()

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """Time configs in turn."""
        choices = [self._split(config) for config in configs]
        timed = self._device.remeasure_in_place(self._problems, choices, rounds, self._around)
        self.bare_us += timed.bare_us
        return timed


@dataclass(frozen=True, slots=True)
class Raced:
    """The result of a race in place. Times of one layer in us, base product included.

    Attributes:
        bare_us: of the layer without adapters.
        winner: the fastest, or the config that stays unless it is beaten.
        times_us: of all configs that raced to the end.
    """

    bare_us: float
    winner: ConfigKey
    times_us: dict[ConfigKey, float]


def race_there(
    there: There,
    problem: Problem,
    chosen: Sequence[ConfigKey],
    kept: ConfigKey,
    finalists: Finalists,
    add: Callable[[Mapping[ConfigKey, float]], Sequence[ConfigKey]] = lambda _: (),
) -> tuple[Raced | None, Launches]:
    """Time configs a few times each. The best few then race until their order is certain.

    Args:
        kept: stays unless it is beaten, if it is one of them.
        finalists: how sure the race has to be.
        add: given the first times, names further configs that race.

    Returns:
        The result, None if nothing could be timed; and the launches.
    """
    launches: Launches = Counter()
    if len(chosen) > KEPT + 1:
        first = there.remeasure(problem, [dict(key) for key in chosen], FIRST_ROUNDS)
        launches += first.launches
        times = {k: estimate_us(runs) for k, runs in zip(chosen, first.runtimes_us, strict=True) if runs}
        best = sorted(times, key=times.__getitem__)[:KEPT]
        chosen = [key for key in times if key in best or key == kept]
        chosen += [key for key in add(times) if key not in chosen]
    race = Race(there, problem, replace(finalists, rounds=ROUNDS, most_rounds=MOST_ROUNDS), chosen, kept=kept)
    race.run()
    launches += race.launches
    if not race.times_us or not there.bare_us:
        return None, launches
    winner = race.leader
    if kept in race.times_us and not race.beats(winner, kept):
        winner = kept
    return Raced(estimate_us(there.bare_us), winner, race.times_us), launches


def race_in_place(
    device: Device,
    problem: Problem,
    around: Surroundings,
    measured: Mapping[ConfigKey, float],
    default: Config,
    finalists: Finalists,
) -> tuple[InPlaceTimes | None, Launches]:
    """Time the configs of a linear's kernel that come near the best alone, in their layer.

    The default stays unless it is beaten.

    Args:
        measured: time alone of every complete trial, in us.
        default: the kernel's default config.
        finalists: how sure the race has to be.

    Returns:
        The times, None if nothing could be timed; and the launches.

    Raises:
        DeviceError: the GPU is lost in the race.
    """
    default_key = config_key(default)
    overlaps = isinstance(around.layer, Linear) and not around.layer.adds
    chosen = near(measured, TWO_STREAMS if overlaps else ONE_STREAM)
    chosen += [default_key] if default_key in measured and default_key not in chosen else []
    raced, launches = race_there(There(device, (problem,), around), problem, chosen, default_key, finalists)
    if raced is None:
        return None, launches
    times, winner = raced.times_us, raced.winner
    found = InPlaceTimes(around, raced.bare_us, winner, times[winner], times.get(default_key), times)
    by_active, more = _by_active(device, problem, found, default_key)
    return replace(found, by_active=by_active), launches + more


def _by_active(
    device: Device, problem: Problem, found: InPlaceTimes, default: ConfigKey
) -> tuple[tuple[ActiveTimes, ...], Launches]:
    """Time the winner and the default with each number of adapters of a mix by itself. Without a mix, time nothing."""
    keys = dict.fromkeys([found.winner, *([default] if found.default_time_us is not None else [])])
    times, launches = [], Counter[LaunchPurpose]()
    for adapters in found.around.active if len(found.around.active) > 1 else ():
        around = replace(found.around, active=(adapters,))
        timed = device.remeasure_in_place((problem,), [(dict(key),) for key in keys], ROUNDS, around)
        launches += timed.launches
        us = {key: estimate_us(runs) for key, runs in zip(keys, timed.runtimes_us, strict=True) if runs}
        if timed.bare_us and found.winner in us:
            times.append(ActiveTimes(adapters, estimate_us(timed.bare_us), us[found.winner], us.get(default)))
    return tuple(times), launches


def near(measured: Mapping[ConfigKey, float], limits: Entrants) -> list[ConfigKey]:
    """Return the configs that are timed in place, the fastest first."""
    ordered = sorted(measured, key=measured.__getitem__)[: limits.count]
    return [key for key in ordered if measured[key] <= limits.near * measured[ordered[0]]]


def after_layer(finalists: Finalists, *, decided: bool) -> Finalists:
    """Return how finalists are timed alone. If a layer has decided, that only informs, so fewer are timed."""
    return replace(finalists, count=min(finalists.count, TOLD)) if decided else finalists


def decided_in_place(alone: Choice, found: InPlaceTimes, default: Config) -> Choice:
    """Return the choice that a study ends with: the config that won in place.

    It has its times alone, which are what other studies, recordings and sidecars hold. If its result was wrong when
    timed alone, the choice is the config that won alone.
    """
    if found.winner not in alone.times_us:
        return alone
    config = {name: dict(found.winner)[name] for name in default}
    return replace(alone, config=config, time_us=alone.times_us[found.winner], in_place=found)
