"""Multi-LoRA shrink before anything is compiled."""

from functools import cached_property
from typing import ClassVar

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import SearchSpace
from bo_tune.kernels.lora.spec import LoraSpec

DEFAULT_GROUP_SIZE_M = 8
"""Tiles down before the next along n, where a config does not say."""

SMALL_BATCH = 128
"""Below so many tokens vLLM splits k further by default."""


class LoraShrinkSpec(LoraSpec):
    """Shrink: k is the hidden size, n the rank, the output float32 and added to by every share of k."""

    name = "lora_shrink"
    has_split_k: ClassVar[bool] = True
    activation_bytes: ClassVar[int] = 2
    output_bytes_per_element: ClassVar[float] = 4.0

    @cached_property
    def _space(self) -> SearchSpace:
        return SearchSpace.of(
            {
                "block_m": (16, 32, 64, 128, 256),
                "block_n": (16, 32, 64, 128, 256),
                "block_k": (32, 64, 128, 256),
                "num_warps": (4, 8),
                "num_stages": (2, 3, 4, 5),
                "split_k": (4, 8, 16, 32, 64),
                "num_ctas": (1,),
            }
        )

    @property
    def search_space(self) -> SearchSpace:
        return self._space

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        small = problem.m < SMALL_BATCH
        return {
            "block_m": 32,
            "block_n": 16,
            "block_k": 256 if small else 32,
            "num_warps": 4,
            "num_stages": 2,
            "split_k": 64 if small else 8,
            "num_ctas": 1,
        }

    def file_stem(self, problem: LoraProblem) -> str:
        return "SHRINK"
