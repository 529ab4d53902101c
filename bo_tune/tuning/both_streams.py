"""One config of shrink for engines of one stream and of two.

An engine looks shrink up in one file, however it runs adapters. The best config behind the base layer need not be the
best one beside it. So if a folder is to serve both kinds of engine, each is tuned by itself, and the finalists of both
then run in the layer both ways. The config with the least sum wins, and the default stays unless it is beaten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bo_tune.core.outcome import Invalid, estimate_us
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Linear
from bo_tune.measure.device import Device
from bo_tune.store.result import StudyResult
from bo_tune.tuning.in_place import surroundings_in
from bo_tune.tuning.race import beats

ROUNDS = 24
"""Replays of each config, each way."""

LayerTimes = Mapping[ConfigKey, tuple[float, ...]]
"""Times of a layer with each config, round by round, in us, base product included."""


@dataclass(frozen=True, slots=True)
class Compromise:
    """A config that serves both ways, and its cost to each. Times are of one layer, in us, base product included.

    Attributes:
        one_us: the layer's time on one stream; ``two_us`` on two.
        least_one_us: the least time on one stream with any finalist of either way; ``least_two_us`` on two.
    """

    config: dict[str, int]
    one_us: float
    two_us: float
    least_one_us: float
    least_two_us: float

    @property
    def loss_one_us(self) -> float:
        """The time that a layer on one stream takes longer than with the best config for one stream."""
        return self.one_us - self.least_one_us

    @property
    def loss_two_us(self) -> float:
        """The time that a layer on two streams takes longer than with the best config for two streams."""
        return self.two_us - self.least_two_us


def finalists_of(results: Sequence[StudyResult]) -> list[Config]:
    """Return the configs that were timed in place at the end of any of these studies, each once."""
    configs = [dict(config) for result in results if result.in_place for config, _ in result.in_place.finalists]
    return [dict(key) for key in dict.fromkeys(map(config_key, configs))]


def layer_us(
    device: Device, problem: LoraProblem, linear: Linear, configs: Sequence[Config], active: tuple[int, ...] = ()
) -> LayerTimes:
    """Time those configs in their layer that compile and give right results.

    Args:
        active: how many adapters a step uses: a mix of such numbers.

    Raises:
        DeviceError: the GPU is lost, or the layer's other kernel cannot be compiled.
    """
    builds = [device.compile(problem, config) for config in configs]
    whole = [config for config, build in zip(configs, builds, strict=True) if not isinstance(build.result(), Invalid)]
    timed = device.remeasure_in_place(
        (problem,), [(config,) for config in whole], ROUNDS, surroundings_in(linear, problem, device, active)
    )
    return {config_key(config): runs for config, runs in zip(whole, timed.runtimes_us, strict=True) if runs}


def compromise(one: LayerTimes, two: LayerTimes, default: Config, confidence: float) -> Compromise | None:
    """Return the config with the least sum, or None if no config was timed both ways.

    Args:
        default: stays unless it is beaten with this confidence.
    """
    sums = {key: tuple(map(sum, zip(one[key], two[key], strict=True))) for key in one if key in two}
    if not sums:
        return None
    best, kept = min(sums, key=lambda key: estimate_us(sums[key])), config_key(default)
    if kept in sums and not beats(sums[best], sums[kept], (1.0 - confidence) / len(sums)):
        best = kept
    us = [{key: estimate_us(runs) for key, runs in way.items()} for way in (one, two)]
    return Compromise(dict(best), us[0][best], us[1][best], min(us[0].values()), min(us[1].values()))
