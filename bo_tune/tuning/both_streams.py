"""One config of shrink for engines of one stream and of two.

An engine looks shrink up in one file, however it runs adapters. What is best behind the base layer need not be what is
best beside it. So where a folder is to serve both, each way is tuned by itself, and the finalists of both then run in
the layer both ways. The sum of what the adapters add decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.surroundings import Linear
from bo_tune.measure.device import Device
from bo_tune.store.result import StudyResult
from bo_tune.tuning.in_place import surroundings_in

ROUNDS = 24
"""Replays of each config, each way."""

AddedTimes = Mapping[ConfigKey, float]
"""What the adapters add to a layer's time with each config, in us."""


@dataclass(frozen=True, slots=True)
class Compromise:
    """A config that serves both ways, and what it costs each.

    Attributes:
        one_us: what the adapters add to the layer on one stream; ``two_us`` on two.
        best_one_us: the least that any config of both ways' finalists adds on one stream; ``best_two_us`` on two.
    """

    config: dict[str, int]
    one_us: float
    two_us: float
    best_one_us: float
    best_two_us: float

    @property
    def loss_one(self) -> float:
        """What it costs on one stream, as a share of the least."""
        return self.one_us / self.best_one_us - 1

    @property
    def loss_two(self) -> float:
        """What it costs on two streams, as a share of the least."""
        return self.two_us / self.best_two_us - 1


def finalists_of(results: Sequence[StudyResult]) -> list[Config]:
    """Return the configs that were timed in place at the end of any of these studies, once each."""
    configs = [dict(config) for result in results if result.in_place for config, _ in result.in_place.finalists]
    return [dict(key) for key in dict.fromkeys(map(config_key, configs))]


def added_us(
    device: Device, problem: LoraProblem, linear: Linear, configs: Sequence[Config], active: tuple[int, ...] = ()
) -> AddedTimes:
    """Time configs in their layer, and return what the adapters add with each; nothing where the layer cannot run.

    Args:
        active: how many adapters steps use, a mix of them.

    Raises:
        DeviceError: the GPU is lost, or the layer's other kernel cannot be compiled.
    """
    for build in [device.compile(problem, config) for config in configs]:
        build.result()
    around = surroundings_in(linear, problem, device, active)
    timed = device.remeasure_in_place(problem, configs, ROUNDS, around)
    if not timed.bare_us:
        return {}
    bare_us = estimate_us(timed.bare_us)
    pairs = zip(configs, timed.runtimes_us, strict=True)
    return {config_key(config): estimate_us(runs) - bare_us for config, runs in pairs if runs}


def compromise(one: AddedTimes, two: AddedTimes) -> Compromise | None:
    """Return the config of the least sum; None where no config was timed both ways."""
    both = [key for key in one if key in two]
    if not both:
        return None
    best = min(both, key=lambda key: one[key] + two[key])
    least_one, least_two = min(one.values()), min(two.values())
    return Compromise(dict(best), one[best], two[best], least_one, least_two)
