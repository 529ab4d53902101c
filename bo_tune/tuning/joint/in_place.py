"""The race in place of a layer's experts: configs of all their kernels, timed together where an engine runs them.

A choice is a config of each kernel, all with one value of ``SHARED``. These choices race: for each value the best
choice alone, and the same with one kernel's config replaced by another that comes near it; the combination of what is
best for each kernel by the first times; and the defaults.
"""

from collections.abc import Mapping, Sequence

from bo_tune.core.conclusion import SHARED, LayerTimes
from bo_tune.core.outcome import Launches
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Mixture, Surroundings
from bo_tune.measure.device import Device
from bo_tune.tuning.in_place import Entrants, There, near, race_there
from bo_tune.tuning.settings import Finalists

OF_A_VALUE = Entrants(5, 1.15)
"""Configs of each kernel that are tried under a value."""

NEAR = 1.3
"""A value whose sum alone is larger than the best one's by more than this factor is left out."""

Keys = tuple[ConfigKey, ...]
"""A choice: a config of each kernel."""


class Together:
    """Turns choices into single configs, with parameters named after their kernels, so that they can race."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._kernels = [problem.kernel for problem in problems]

    def joined(self, keys: Keys) -> ConfigKey:
        """Return a choice as one config."""
        parts = zip(self._kernels, keys, strict=True)
        return tuple((f"{kernel}.{name}", value) for kernel, key in parts for name, value in key)

    def split(self, config: Config) -> list[dict[str, int]]:
        """Return the config of each kernel."""
        words = [(name.rpartition("."), value) for name, value in config.items()]
        return [{name: value for (of, _, name), value in words if of == kernel} for kernel in self._kernels]

    def keys(self, joined: ConfigKey) -> Keys:
        """Return the choice from which ``joined`` made this key."""
        return tuple(map(config_key, self.split(dict(joined))))


def race_layer(
    device: Device,
    problems: Sequence[Problem],
    layer: Mixture,
    measured: Sequence[Mapping[ConfigKey, float]],
    defaults: Keys,
    finalists: Finalists,
) -> tuple[tuple[Keys, LayerTimes] | None, Launches]:
    """Race choices in their layer. The defaults stay unless they are beaten.

    Args:
        problems: of all kernels that the layer runs.
        measured: for each kernel, the time alone of every complete trial, in us.
        defaults: the kernels' default configs.
        finalists: how sure the race has to be.

    Returns:
        The choice and the layer's times, None if nothing could be timed; and the launches.

    Raises:
        DeviceError: the GPU is lost in the race.
    """
    together, bases = Together(problems), _bases(measured)
    choices = [*bases, *(variant for base in bases for variant in _variants(base, measured))]
    if all(key in times for key, times in zip(defaults, measured, strict=True)) and _value(defaults) is not None:
        choices = list(dict.fromkeys([defaults, *choices]))

    def best_of_each(times: Mapping[ConfigKey, float]) -> list[ConfigKey]:
        known = {together.keys(key): us for key, us in times.items()}
        return [together.joined(_best_of_each(base, known)) for base in bases if base in known]

    there = There(device, problems, Surroundings(layer, active=finalists.active), together.split)
    chosen, kept = [together.joined(keys) for keys in choices], together.joined(defaults)
    raced, launches = race_there(there, problems[0], chosen, kept, finalists, best_of_each)
    if raced is None:
        return None, launches
    times = LayerTimes(raced.bare_us, raced.times_us[raced.winner], raced.times_us.get(kept))
    return (together.keys(raced.winner), times), launches


def _bases(measured: Sequence[Mapping[ConfigKey, float]]) -> list[Keys]:
    """Return the best choice alone for each value, the best value first."""
    sums: dict[Keys, float] = {}
    for value in {dict(key)[SHARED] for key in measured[0]}:
        kernels = [_of_value(times, value) for times in measured]
        if all(kernels):
            keys = tuple(min(times, key=times.__getitem__) for times in kernels)
            sums[keys] = sum(times[key] for times, key in zip(kernels, keys, strict=True))
    return [keys for keys in sorted(sums, key=sums.__getitem__) if sums[keys] <= NEAR * min(sums.values())]


def _variants(base: Keys, measured: Sequence[Mapping[ConfigKey, float]]) -> list[Keys]:
    """Return the choices that replace one kernel's config of the base by another that comes near it."""
    value = _value(base)
    return [
        (*base[:place], key, *base[place + 1 :])
        for place, times in enumerate(measured)
        for key in near(_of_value(times, value), OF_A_VALUE)[1:]
    ]


def _best_of_each(base: Keys, times: Mapping[Keys, float]) -> Keys:
    """Combine each kernel's best config, judged by the choices that differ from the base in that kernel at most."""

    def best(place: int) -> ConfigKey:
        rest = base[:place], base[place + 1 :]
        alike = {keys[place]: us for keys, us in times.items() if (keys[:place], keys[place + 1 :]) == rest}
        return min(alike, key=alike.__getitem__)

    return tuple(best(place) for place in range(len(base)))


def _of_value(times: Mapping[ConfigKey, float], value: int | None) -> dict[ConfigKey, float]:
    return {key: us for key, us in times.items() if dict(key)[SHARED] == value}


def _value(keys: Keys) -> int | None:
    """Return the value of ``SHARED`` that a choice agrees on, or None if it does not agree."""
    values = {dict(key)[SHARED] for key in keys}
    return values.pop() if len(values) == 1 else None
