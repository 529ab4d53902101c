"""The race in place: of the finalists those that are near the best alone, timed where an engine runs them.

Alone means behind a cleared cache, with nothing else on the GPU. In an engine weights are cold, activations warm, and
each kernel meets the end of the one before it: the config that is the fastest alone was up to 6 % of the adapters' time
slower there than the best, and the best was always among the eight fastest alone (``benchmarks/results``). So the
trials stay as they are, and the layer decides between those that come near.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bo_tune.core.outcome import Invalid, estimate_us
from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Linear, Surroundings
from bo_tune.errors import DeviceError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Device, Remeasured
from bo_tune.tuning.race import Choice, Finalists, Race

NEAR = 1.06
"""A finalist that takes longer than this times the fastest alone is not timed in place."""

ROUNDS, MOST_ROUNDS = 8, 64
"""Replays of each finalist in one batch, and at most. A replay is a mean over several launches."""


@dataclass(frozen=True, slots=True)
class InPlaceTimes:
    """What a race in place found. Times of one layer in us, base product included.

    Attributes:
        bare_us: of the layer without adapters.
        default_time_us: with the default config; None where it cannot run.
        times_us: with each finalist that was timed.
    """

    around: Surroundings
    bare_us: float
    time_us: float
    default_time_us: float | None
    times_us: dict[ConfigKey, float]


def surroundings_in(linear: Linear, problem: LoraProblem, device: Device) -> Surroundings:
    """Return what a kernel runs among in a layer: beside the default config of the layer's other kernel, compiled.

    Raises:
        DeviceError: that one cannot be compiled.
    """
    beside = linear.beside(problem)
    config = device.default_config(kernel_spec(beside.kernel), beside)
    build = device.compile(beside, config).result()
    if isinstance(build, Invalid):
        raise DeviceError(f"{beside}: the default config cannot be compiled: {build.detail or build.reason.value}")
    return Surroundings(linear, config)


class _There:
    """A device that times configs in a layer, and keeps the times of the layer without adapters."""

    def __init__(self, device: Device, around: Surroundings) -> None:
        self._device, self._around = device, around
        self.bare_us: tuple[float, ...] = ()

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """Time configs in turn."""
        timed = self._device.remeasure(problem, configs, rounds, taken=taken, around=self._around)
        self.bare_us += timed.bare_us
        return timed


def choose_in_place(
    device: Device, problem: Problem, around: Surroundings, alone: Choice, default: Config, finalists: Finalists
) -> Choice:
    """Return what a study ends with, decided in place; the fastest alone where nothing can be timed there.

    The times of the choice stay those alone: they are what other studies, recordings and sidecars hold.

    Args:
        alone: what the race alone came to.
        default: the kernel's default config, which stays unless it is beaten.

    Raises:
        DeviceError: the GPU is lost in the race.
    """
    default_key = config_key(default)
    nearest = NEAR * min(alone.times_us.values())
    chosen = [key for key, time_us in alone.times_us.items() if key == default_key or time_us <= nearest]
    there = _There(device, around)
    race = Race(there, problem, replace(finalists, rounds=ROUNDS, most_rounds=MOST_ROUNDS), chosen, kept=default_key)
    race.run()
    times = race.times_us
    launches = alone.launches + race.launches
    if not times or not there.bare_us:
        return replace(alone, launches=launches)
    winner = race.leader
    if default_key in times and not race.beats(winner, default_key):
        winner = default_key
    found = InPlaceTimes(around, estimate_us(there.bare_us), times[winner], times.get(default_key), times)
    config = {name: dict(winner)[name] for name in default}
    return replace(alone, config=config, time_us=alone.times_us[winner], launches=launches, in_place=found)
