"""A kernel source for the played vendor: what is compiled is real, what is launched is computed by torch."""

import math
from dataclasses import dataclass

from bo_tune.core.space import Config
from bo_tune.kernels.lora.inputs import ShrinkInputs
from bo_tune.kernels.lora.shrink import LoraShrink

BEST = {"block_m": 32, "block_n": 16, "block_k": 64, "num_warps": 4}
WRONG, BREAKING = 3, 4
"""Values of ``num_stages`` with which a kernel writes nothing, and breaks its GPU."""


@dataclass
class Clock:
    """What time it is on the GPU, and whether anything works there."""

    now_us: float = 0.0
    is_broken: bool = False


CLOCK = Clock()


def time_us(config: Config) -> float:
    """Farther from the best by a factor of two, slower by a tenth."""
    return 10.0 + sum(abs(math.log2(config[name] / best)) for name, best in BEST.items())


class PlayedShrink(LoraShrink):
    """The project's shrink kernel, launched on a GPU that is played."""

    def launch(self, inputs: ShrinkInputs, config: Config) -> None:
        CLOCK.now_us += time_us(config)
        CLOCK.is_broken |= config["num_stages"] == BREAKING
        if config["num_stages"] != WRONG:
            inputs.out.copy_(self.reference(inputs))


def operation(name: str) -> PlayedShrink:
    """Return the one kernel that there is."""
    assert name == "lora_shrink"
    return PlayedShrink()
