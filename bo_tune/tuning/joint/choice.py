"""The last step of a joint study: choose the shared parameter's value, and each kernel's config under it.

For each kernel, the best few configs of the best one or two values are re-measured in turn, together with its default.
They race within their value. The value with the least sum of times wins if that sum is certainly less than the
defaults' sum. Otherwise the defaults stay. Rounds of different kernels have nothing in common, so they may be added up
in any pairing: a round of the sum is the sum of one round of each kernel.

If the kernels' layer is known, choices of all their configs first race in it (``in_place``), and the winner there is
taken. Its times alone are what other studies, recordings and sidecars hold.

If other kernels have decided on the value (``joint.decision``), each kernel's best config of that value is taken, and
its default only if that has the value.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from bo_tune.core.conclusion import SHARED, Agreement, Decision, LayerTimes
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.formats.recording import Recording
from bo_tune.measure.device import Device
from bo_tune.tuning.in_place import after_layer
from bo_tune.tuning.race import Choice, Race, beats
from bo_tune.tuning.settings import Finalists

MOST_VALUES = 2
"""Values of the shared parameter whose configs are re-measured."""

NEAR = 1.05
"""A value whose sum is larger than the best value's by more than this factor is out of the race."""


class Studied(Protocol):
    """The parts of one kernel's study that this module needs."""

    problem: Problem
    device: Device
    default: dict[str, int]
    measured: dict[ConfigKey, float]


@dataclass(frozen=True, slots=True)
class JointChoice:
    """The configs that studies end with together.

    Attributes:
        choices: one for each kernel, all with one value of ``SHARED``.
        value: that value.
        time_us: sum of their times, in us.
        default_time_us: sum of the defaults' times, measured in turn with them; None if a default cannot run.
        decided_by: which other kernels decided on the value, with their times; None if these kernels did.
        in_place: the layer's times, if those decided.
    """

    kernels: tuple[str, ...]
    choices: tuple[Choice, ...]
    value: int
    time_us: float
    default_time_us: float | None
    decided_by: Decision | None = None
    in_place: LayerTimes | None = None

    @property
    def joint(self) -> Agreement:
        """The agreement that each of the studies stores."""
        return Agreement(self.kernels, self.value, self.time_us, self.default_time_us, self.decided_by, self.in_place)


def choose_jointly(
    studies: Sequence[Studied],
    finalists: Finalists,
    decided: int | None = None,
    found: tuple[Sequence[ConfigKey], LayerTimes] | None = None,
) -> JointChoice | None:
    """Re-measure and choose.

    Args:
        decided: the value, if it has been decided on. The defaults are then chosen only if they have it.
        found: the config of each kernel that won in their layer, and its times.

    Returns:
        None if no value, or not the one decided on, was measured for every kernel.
    """
    values = _best_values(studies, decided)
    if not values:
        return None
    finalists = after_layer(finalists, decided=found is not None)
    also = [[key] for key in found[0]] if found is not None else [[] for _ in studies]
    races = [_race(study, values, finalists, keys) for study, keys in zip(studies, also, strict=True)]
    winners = {value: [_winner(race, value) for race in races] for value in values}
    sums = {
        value: sum(race.times_us[key] for race, key in zip(races, keys, strict=True))
        for value, keys in ((value, _present(keys)) for value, keys in winners.items())
        if keys is not None
    }
    if not sums:
        return None
    defaults = _present([_default(study, race) for study, race in zip(studies, races, strict=True)])
    value = min(sums, key=sums.__getitem__)
    chosen = _present(winners[value])
    assert chosen is not None
    free = decided is None or (defaults is not None and all(dict(key)[SHARED] == decided for key in defaults))
    if defaults is not None and free and not _beat(races, chosen, defaults, 1.0 - finalists.confidence):
        chosen = defaults
    in_place = None
    if found is not None and all(key in race.times_us for race, key in zip(races, found[0], strict=True)):
        chosen, in_place = list(found[0]), found[1]
    choices = tuple(
        _choice(study, race, key, defaults is not None) for study, race, key in zip(studies, races, chosen, strict=True)
    )
    default_us = sum(race.times_us[key] for race, key in zip(races, defaults, strict=True)) if defaults else None
    kernels = tuple(study.problem.kernel for study in studies)
    time_us = sum(choice.time_us for choice in choices)
    return JointChoice(kernels, choices, dict(chosen[0])[SHARED], time_us, default_us, in_place=in_place)


def best_by_value(timed: Iterable[tuple[Config, float]]) -> dict[int, float]:
    """Return the least time for each value of ``SHARED``."""
    best: dict[int, float] = {}
    for config, time in timed:
        best[config[SHARED]] = min(time, best.get(config[SHARED], inf))
    return best


def sums_by_value(best: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the sums of the kernels' times by value, for the values that all of them have."""
    return {value: sum(one[value] for one in best) for value in sorted(set.intersection(*map(set, best)))}


def best_recorded_us(recordings: Sequence[Recording], decided: int | None = None) -> float:
    """Return the smallest recorded time, in us. For several kernels, it is the smallest sum of configs that agree.

    Args:
        decided: the value on which they agree, if it has been decided on.
    """
    if len(recordings) == 1:
        return recordings[0].best_time_us
    entries = [[(dict(key), e.time_us) for key, e in r.entries.items() if e.time_us is not None] for r in recordings]
    entries = [[(c, time) for c, time in timed if decided in (None, c[SHARED])] for timed in entries]
    best = best_together(entries)
    assert best is not None
    return best


def best_together(timed: Sequence[Sequence[tuple[Mapping[str, int], float]]]) -> float | None:
    """Return the smallest sum of one time per kernel. Several must share a value of ``SHARED``; None if none do."""
    if len(timed) == 1:
        return min((time for _, time in timed[0]), default=None)
    return min(sums_by_value([best_by_value(configs) for configs in timed]).values(), default=None)


def _best_values(studies: Sequence[Studied], decided: int | None) -> list[int]:
    """Return the values with the least sums of measured times, the best first, or only the decided one."""
    sums = sums_by_value([best_by_value((dict(key), time) for key, time in s.measured.items()) for s in studies])
    if decided is not None:
        return [decided] if decided in sums else []
    ordered = sorted(sums, key=sums.__getitem__)
    return [value for value in ordered[:MOST_VALUES] if sums[value] <= NEAR * sums[ordered[0]]]


def _race(study: Studied, values: Sequence[int], finalists: Finalists, also: Sequence[ConfigKey]) -> Race:
    """Time in turn the best few configs of each value, the default, and those in ``also``."""
    default = config_key(study.default)
    chosen = [default] if default in study.measured else []
    for value in values:
        of_value = [key for key in study.measured if dict(key)[SHARED] == value and key != default]
        chosen += sorted(of_value, key=study.measured.__getitem__)[: finalists.count]
    chosen += [key for key in also if key not in chosen]
    race = Race(study.device, study.problem, finalists, chosen, default, lambda key: dict(key)[SHARED])
    race.run()
    return race


def _winner(race: Race, value: int) -> ConfigKey | None:
    times = race.times_us
    return race.leader_of(value) if any(dict(key)[SHARED] == value for key in times) else None


def _default(study: Studied, race: Race) -> ConfigKey | None:
    key = config_key(study.default)
    return key if key in race.times_us else None


def _present(keys: Sequence[ConfigKey | None]) -> list[ConfigKey] | None:
    """Return the keys, or None if one is missing."""
    found = [key for key in keys if key is not None]
    return found if len(found) == len(keys) else None


def _beat(races: Sequence[Race], chosen: Sequence[ConfigKey], defaults: Sequence[ConfigKey], risk: float) -> bool:
    """Say whether the sum of the chosen configs' times is certainly less than the defaults'."""
    return list(chosen) != list(defaults) and beats(_sums(races, chosen), _sums(races, defaults), risk)


def _sums(races: Sequence[Race], keys: Sequence[ConfigKey]) -> list[float]:
    rounds = [race.runtimes_us[key] for race, key in zip(races, keys, strict=True)]
    return [sum(parts) for parts in zip(*rounds, strict=False)]


def _choice(study: Studied, race: Race, key: ConfigKey, has_default: bool) -> Choice:
    times: Mapping[ConfigKey, float] = race.times_us
    return Choice(
        config={name: dict(key)[name] for name in study.default},
        time_us=times[key],
        default_time_us=times.get(config_key(study.default)) if has_default else None,
        times_us=times,
        launches=race.launches,
    )
