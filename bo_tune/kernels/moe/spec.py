"""The four fused MoE LoRA kernels before anything is compiled.

Each multiplies tiles of tokens of one adapter and one expert with that pair's weights. What a *problem* calls k, n and
i are the numbers under which the engine looks its config up: the rank as w13's A holds it, the hidden size, and the
width of a slice of w13's result or the length of w2's input. The latter two are the intermediate size as sharded, but
twice that for w13 where gate and up are one slice (``Experts.packed``). The sizes of the product follow from them:

=========  ====================  =================
kernel     length of product     width of a slice
=========  ====================  =================
w13 shrink hidden                rank
w13 expand rank, of all shards   i
w2 shrink  i                     rank
w2 expand  rank                  hidden / shards
=========  ====================  =================
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Experts, GpuInfo, LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.kernels.lora.spec import FEATURE_NAMES, Columns, LoraSpec, Work, asynchronous
from bo_tune.kernels.moe.untuned import bounded, general_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOE = "fused_moe_lora"
"""What the names of the kernels have in common."""


class MoeLoraSpec(LoraSpec):
    """One of the four kernels."""

    table_level_i: ClassVar[bool] = True
    activation_bytes: ClassVar[int] = 2
    output_bytes_per_element: ClassVar[float] = 2.0

    widths: ClassVar[tuple[int, ...]]
    """Values of block_n."""
    lengths: ClassVar[tuple[int, ...]]
    """Values of block_k."""

    @property
    def search_space(self) -> SearchSpace:
        return self._space

    @cached_property
    def _space(self) -> SearchSpace:
        tile = {"block_m": (16, 32, 64, 128), "block_n": self.widths, "block_k": self.lengths}
        launch = {"group_size_m": (1, 8), "num_warps": (4, 8), "num_stages": (2, 3, 4)}
        return SearchSpace.of({**tile, **launch, **({"split_k": (1, 4, 8)} if self.has_split_k else {})})

    def rank(self, problem: LoraProblem) -> int:
        """Return the whole rank of the adapters."""
        return problem.k

    def intermediate(self, problem: LoraProblem) -> int:
        """Return the intermediate size of an expert, as sharded."""
        return intermediate_of(problem)

    def joint_group(self, problem: LoraProblem) -> tuple[object, ...]:
        sizes = (problem.max_loras, problem.m, self.rank(problem), problem.n, self.intermediate(problem))
        return (MOE, *sizes, problem.dtype, problem.experts)

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        return self.as_taken(general_config(problem.m, experts_of(problem).local), problem)

    def as_taken(self, config: Config, problem: LoraProblem) -> dict[str, int]:
        """Return what this kernel takes of a config of the base model's experts."""
        taken = bounded(config, problem.k, shrinks=self.has_split_k)
        return {name: taken[name] for name in self.search_space.names}

    def product_sizes(self, problem: LoraProblem, conditions: Conditions) -> dict[str, int | str]:
        sizes = {"gemm_n": self.product_width(problem), "gemm_k": self.product_length(problem)}
        return {**sizes, "routing": str(conditions.routing)}

    def file_stem(self, problem: LoraProblem) -> str:
        return self.name.upper()

    def table_key(self, problem: LoraProblem) -> tuple[str, ...]:
        # Unlike the dense kernels these are passed the engine's own max_loras.
        sizes = (problem.max_loras, problem.num_slices, problem.m, problem.k, problem.n, problem.i)
        return tuple(map(str, sizes))

    def behind_table(self, problem: LoraProblem) -> bool:
        return True

    def product_width(self, problem: LoraProblem) -> int:
        """Return the width of a slice of the product, in elements."""
        raise NotImplementedError

    def features(self, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.moe.features import features  # noqa: PLC0415 - loads numpy

        return features(self, configs, problem, gpu)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return (*FEATURE_NAMES, "log2 launched programs")

    def work(self, c: Columns, problem: LoraProblem) -> Work:
        """Count the programs that find work, for tokens spread uniformly over adapters and experts."""
        from bo_tune.kernels.moe.features import work  # noqa: PLC0415 - loads numpy

        return work(self, c, problem)


class _Shrink(MoeLoraSpec):
    """Shrink: the result is rounded before its partial sums are joined."""

    has_split_k: ClassVar[bool] = True
    widths: ClassVar[tuple[int, ...]] = (16, 32, 64, 128)
    lengths: ClassVar[tuple[int, ...]] = (32, 64, 128, 256)

    def product_width(self, problem: LoraProblem) -> int:
        return problem.k

    def pipelined(self, c: Columns, problem: LoraProblem) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
        x = asynchronous(c.block_m * c.block_k, c, self.activation_bytes)
        return x, x & False


class _Expand(MoeLoraSpec):
    """Expand: adds to its output."""

    has_split_k: ClassVar[bool] = False
    output_bytes_per_element: ClassVar[float] = 4.0  # read and written
    widths: ClassVar[tuple[int, ...]] = (16, 32, 64, 128, 256, 512)
    lengths: ClassVar[tuple[int, ...]] = (16, 32, 64)

    def pipelined(self, c: Columns, problem: LoraProblem) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
        # Where the activations of further slices begin is an argument of unknown alignment.
        x = asynchronous(c.block_m * c.block_k, c, self.activation_bytes) & (problem.num_slices == 1)
        return x, x & False


class _W13(MoeLoraSpec):
    """Gate and up."""

    def rank(self, problem: LoraProblem) -> int:
        return problem.k * experts_of(problem).shards

    def intermediate(self, problem: LoraProblem) -> int:
        return intermediate_of(problem) // (2 if experts_of(problem).packed else 1)


class MoeW13ShrinkSpec(_W13, _Shrink):
    """Gate and up, shrink: hidden states times A."""

    name = "fused_moe_lora_w13_shrink"

    def product_length(self, problem: LoraProblem) -> int:
        return problem.n


class MoeW13ExpandSpec(_W13, _Expand):
    """Gate and up, expand: shrunk hidden states times B."""

    name = "fused_moe_lora_w13_expand"

    def product_length(self, problem: LoraProblem) -> int:
        return self.rank(problem)

    def product_width(self, problem: LoraProblem) -> int:
        return intermediate_of(problem)


class MoeW2ShrinkSpec(_Shrink):
    """Down, shrink: each expert's activations times A."""

    name = "fused_moe_lora_w2_shrink"

    def product_length(self, problem: LoraProblem) -> int:
        return intermediate_of(problem)


class MoeW2ExpandSpec(_Expand):
    """Down, expand: shrunk activations times B, weighted by the routing."""

    name = "fused_moe_lora_w2_expand"

    def product_width(self, problem: LoraProblem) -> int:
        return problem.n // experts_of(problem).shards


MOE_SPECS = (MoeW13ShrinkSpec(), MoeW13ExpandSpec(), MoeW2ShrinkSpec(), MoeW2ExpandSpec())
"""In the order a layer runs them."""


def experts_of(problem: LoraProblem) -> Experts:
    """Return the experts of a problem. Raises ValueError where it does not tell."""
    if problem.experts is None:
        raise ValueError(f"a fused MoE problem needs its numbers of experts: {problem}")
    return problem.experts


def intermediate_of(problem: LoraProblem) -> int:
    """Return the intermediate size of a problem. Raises ValueError where it does not tell."""
    if problem.i is None:
        raise ValueError(f"a fused MoE problem needs its intermediate size i: {problem}")
    return problem.i
