"""The four fused MoE LoRA kernels, and the two one-launch kernels, before anything is compiled.

Each multiplies tiles of tokens of one adapter and one expert with that pair's weights. In a *problem*, k, n and i are
the numbers under which the engine looks up its config. k is the rank as w13's A holds it, n the hidden size, and i the
width of a slice of w13's result or the length of w2's input. i is the sharded intermediate size, but twice that for w13
if gate and up are one slice (``Experts.packed``). The sizes of the product follow from them:

=========  ====================  =================
kernel     length of product     width of a slice
=========  ====================  =================
w13 shrink hidden                rank
w13 expand rank, of all shards   i
w2 shrink  i                     rank
w2 expand  rank                  hidden / shards
=========  ====================  =================

The one-launch kernels run shrink and expand at once: one for gate and up, one for down. If an engine runs these, it
takes block_m from the four tuned files and nothing else. So their search space is block_m alone, they have no file of
their own, and their measurements decide on block_m for the other four.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from bo_tune.core.conclusion import SHARED
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Experts, GpuInfo, LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.core.surroundings import MOE
from bo_tune.kernels.lora.spec import FEATURE_NAMES, Columns, LoraSpec, asynchronous
from bo_tune.kernels.moe.untuned import bounded, general_config
from bo_tune.kernels.spec import KernelSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class MoeLoraSpec(LoraSpec):
    """One of the four kernels.

    Args:
        part: ``w13`` (gate and up) or ``w2`` (down).
        half: ``shrink``, which rounds its result before the partial sums are joined, or ``expand``, which adds to its
            output.
    """

    table_level_i = True
    activation_bytes = 2

    def __init__(self, part: str, half: str) -> None:
        self.name = f"{MOE}_{part}_{half}"
        self.is_w13 = part == "w13"
        self.shrinks = self.has_split_k = half == "shrink"
        self.output_bytes_per_element = 2.0 if self.shrinks else 4.0  # read and written

    @cached_property
    def search_space(self) -> SearchSpace:
        widths = (16, 32, 64, 128) if self.shrinks else (16, 32, 64, 128, 256, 512)
        lengths = (32, 64, 128, 256) if self.shrinks else (16, 32, 64)
        tile = {"block_m": (16, 32, 64, 128), "block_n": widths, "block_k": lengths}
        launch = {"group_size_m": (1, 8), "num_warps": (4, 8), "num_stages": (2, 3, 4)}
        return SearchSpace.of({**tile, **launch, **({"split_k": (1, 4, 8)} if self.shrinks else {})})

    def rank(self, problem: LoraProblem) -> int:
        """Return the whole rank of the adapters."""
        return problem.k * (experts_of(problem).shards if self.is_w13 else 1)

    def intermediate(self, problem: LoraProblem) -> int:
        """Return the sharded intermediate size of an expert."""
        return intermediate_of(problem) // (2 if self.is_w13 and experts_of(problem).packed else 1)

    def product_length(self, problem: LoraProblem) -> int:
        if not self.shrinks:
            return self.rank(problem)
        return problem.n if self.is_w13 else intermediate_of(problem)

    def product_width(self, problem: LoraProblem) -> int:
        """Return the width of a slice of the product, in elements."""
        if self.shrinks:
            return problem.k
        return intermediate_of(problem) if self.is_w13 else problem.n // experts_of(problem).shards

    def joint_group(self, problem: LoraProblem) -> tuple[object, ...]:
        sizes = (problem.max_loras, problem.m, self.rank(problem), problem.n, self.intermediate(problem))
        return (MOE, *sizes, problem.dtype, problem.experts)

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        return self.as_used(general_config(problem.m, experts_of(problem).local), problem)

    def as_used(self, config: Config, problem: LoraProblem) -> dict[str, int]:
        """Return the part of a config of the base model's experts that this kernel uses."""
        taken = bounded(config, problem.k, shrinks=self.shrinks)
        return {name: taken[name] for name in self.search_space.names}

    def product_sizes(self, problem: LoraProblem, conditions: Conditions) -> dict[str, int | str]:
        sizes = {"gemm_n": self.product_width(problem), "gemm_k": self.product_length(problem)}
        return {**sizes, "routing": str(conditions.routing)}

    def file_stem(self, problem: LoraProblem) -> str:
        return self.name.upper()

    def table_key(self, problem: LoraProblem) -> tuple[str, ...]:
        # The dense kernels get one more than max_loras; these get the engine's own value.
        sizes = (problem.max_loras, problem.num_slices, problem.m, problem.k, problem.n, problem.i)
        return tuple(map(str, sizes))

    def behind_table(self, problem: LoraProblem) -> bool:
        return True

    def pipelined(self, c: Columns, problem: LoraProblem) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
        # In expand, the start of the activations of further slices is an argument of unknown alignment.
        aligned = self.shrinks or problem.num_slices == 1
        x = asynchronous(c.block_m * c.block_k, c, self.activation_bytes) & aligned
        return x, x & False

    @property
    def feature_names(self) -> tuple[str, ...]:
        return (*FEATURE_NAMES, "log2 launched programs")

    def features(self, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.moe.features import features  # noqa: PLC0415 - loads numpy

        return features(self, configs, problem, gpu)


MOE_SPECS = tuple(MoeLoraSpec(part, half) for part in ("w13", "w2") for half in ("shrink", "expand"))
"""In the order in which a layer runs them."""

MOE_SPEC: Mapping[str, MoeLoraSpec] = MappingProxyType({spec.name: spec for spec in MOE_SPECS})
"""By kernel name."""


class MoeOneLaunchSpec(KernelSpec[LoraProblem]):
    """Shrink and expand in one launch. The product between them stays in registers.

    Args:
        shrink, expand: the kernels that it replaces.
    """

    decides = True

    def __init__(self, shrink: MoeLoraSpec, expand: MoeLoraSpec) -> None:
        self.name = shrink.name.removesuffix("_shrink")
        self.parts = (shrink, expand)

    @cached_property
    def search_space(self) -> SearchSpace:
        return SearchSpace.of({SHARED: self.parts[0].search_space.ranges[SHARED]})

    def joint_group(self, problem: LoraProblem) -> tuple[object, ...]:
        return self.parts[0].joint_group(problem)

    def default_config(self, problem: LoraProblem) -> dict[str, int]:
        return {SHARED: self.parts[0].default_config(problem)[SHARED]}

    def product_sizes(self, problem: LoraProblem, conditions: Conditions) -> dict[str, int | str]:
        sizes = {"gemm_n": self.product_width(problem), "gemm_k": self.product_length(problem), "rank": problem.k}
        return {**sizes, "routing": str(conditions.routing)}

    def product_length(self, problem: LoraProblem) -> int:
        """Return the length of the first product, in elements."""
        return self.parts[0].product_length(problem)

    def product_width(self, problem: LoraProblem) -> int:
        """Return the width of a slice of the result, in elements."""
        return self.parts[1].product_width(problem)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return ("log2 block_m", "log2 launched blocks")

    def features(self, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> "NDArray[np.float64]":
        from bo_tune.kernels.moe.features import one_launch_features  # noqa: PLC0415 - loads numpy

        return one_launch_features(configs, problem)


ONE_LAUNCH_SPECS = (MoeOneLaunchSpec(*MOE_SPECS[:2]), MoeOneLaunchSpec(*MOE_SPECS[2:]))
"""Gate and up, then down: the order in which a layer runs them."""


def one_launch_problems(problems: Sequence[LoraProblem]) -> tuple[LoraProblem, ...]:
    """Return the problems of the one-launch kernels for the same layer and step.

    Args:
        problems: the problems of the kernels of one joint group.

    Returns:
        One problem per kernel. None if one of the four is missing, because then the files are incomplete. None either
        if the adapters are fully sharded, because then other ranks share the product between shrink and expand.
    """
    by_kernel = {problem.kernel: problem for problem in problems}
    if set(by_kernel) != set(MOE_SPEC) or any(experts_of(problem).shards > 1 for problem in problems):
        return ()
    halves = ((spec, by_kernel[spec.parts[0].name]) for spec in ONE_LAUNCH_SPECS)
    return tuple(replace(half, kernel=spec.name, k=MOE_SPEC[half.kernel].rank(half)) for spec, half in halves)


def experts_of(problem: LoraProblem) -> Experts:
    """Return the experts of a problem. Raises ValueError if it has none."""
    if problem.experts is None:
        raise ValueError(f"a fused MoE problem needs its numbers of experts, got {problem}")
    return problem.experts


def intermediate_of(problem: LoraProblem) -> int:
    """Return the intermediate size of a problem. Raises ValueError if it has none."""
    if problem.i is None:
        raise ValueError(f"a fused MoE problem needs its intermediate size i, got {problem}")
    return problem.i
