"""Multi-LoRA expand before anything is compiled."""

from functools import cached_property
from typing import ClassVar

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import SearchSpace
from bo_tune.kernels.lora.spec import LoraSpec


class LoraExpandSpec(LoraSpec):
    """Expand: k is the rank, n the widest slice; the activations are float32, rounded before the product."""

    name = "lora_expand"
    has_split_k: ClassVar[bool] = False
    activation_bytes: ClassVar[int] = 4
    output_bytes_per_element: ClassVar[float] = 4.0  # read and written

    @cached_property
    def _space(self) -> SearchSpace:
        return SearchSpace.of(
            {
                "block_m": (16, 32, 64, 128, 256),
                "block_n": (32, 64, 128, 256, 512),
                "block_k": (16, 32, 64, 128, 256),
                "num_warps": (2, 4, 8),
                "num_stages": (2, 3, 4, 5),
                "num_ctas": (1,),
            }
        )

    @property
    def search_space(self) -> SearchSpace:
        return self._space

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        return {
            "block_m": 64,
            "block_n": 64 if problem.num_slices > 1 else 128,
            "block_k": 32,
            "num_warps": 4,
            "num_stages": 2,
            "num_ctas": 1,
        }

    def file_stem(self, problem: LoraProblem) -> str:
        return "EXPAND_FALSE" if problem.add_inputs is False else "EXPAND_TRUE"
