"""A layer's experts in one step of an engine: a problem of theirs with names and types.

Facts of vLLM 0.33.0. Its files, and so the problems, use E for the number of experts whose weights a rank holds, and N
for the sharded intermediate size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import DTYPES, Experts, Problem, Size, SizedProblem, check_size

KERNEL = "fused_experts"

SPARSITY = 4
"""vLLM does not sort tokens into blocks if there are at least this many times as many experts as pairs."""

FP8 = "fp8_w8a8"
INT4 = "int4_w4a16"
GROUPED = ("int8_w8a16", INT4)
WEIGHTS = (FP8, *GROUPED)
"""Formats of weights other than 16 bits, with the names in the engine's files."""

WEIGHT_BYTES: Mapping[str, float] = {"": 2, FP8: 1, "int8_w8a16": 1, INT4: 0.5}
"""Bytes of one weight."""

ENGINE_NAMES: Mapping[str, str] = {
    "BLOCK_SIZE_M": "block_m",
    "BLOCK_SIZE_N": "block_n",
    "BLOCK_SIZE_K": "block_k",
    "GROUP_SIZE_M": "group_size_m",
    "num_warps": "num_warps",
    "num_stages": "num_stages",
}
"""Parameters of a config: the engine's names, and the names in other kernels' configs."""


@dataclass(frozen=True, slots=True)
class ExpertsStep:
    """The work of one rank for a layer's experts in a step.

    Attributes:
        m: tokens.
        experts: numbers of experts, in all and on this rank.
        hidden: width of the experts' input and output, in elements.
        n: sharded intermediate size of an expert.
        gated: whether there is a gate beside up. The first product is then twice as wide.
        dtype: element type of the layer's input and output. Activations have it too unless weights are fp8, and weights
            if they have 16 bits.
        weights: one of ``WEIGHTS``; empty for 16 bits.
        block: rows and columns of a weight that share a scale. For fp8, None if a whole expert shares one; otherwise
            activations have one scale per this many elements of a row. For integers, 0 and the elements of a row.
        zeros: whether integers have a zero point for each scale.
    """

    m: int
    experts: Experts
    hidden: int
    n: int
    gated: bool = True
    dtype: str = "bfloat16"
    weights: str = ""
    block: tuple[int, int] | None = None
    zeros: bool = False

    def __post_init__(self) -> None:
        for name in ("m", "hidden", "n"):
            check_size(name, getattr(self, name))
        if type(self.gated) is not bool:
            raise ValueError(f"gated: expected true or false, got {self.gated!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
        self._check_weights()

    def _check_weights(self) -> None:
        if self.weights and self.weights not in WEIGHTS:
            raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {self.weights!r}")
        if type(self.zeros) is not bool or (self.zeros and not self.is_grouped):
            raise ValueError(f"zeros: expected true or false, and true only for integer weights, got {self.zeros!r}")
        rows, columns = self.block or (0, 0)
        if self.block:
            check_size("block_k", columns)
        if self.is_grouped and (rows or not columns):
            raise ValueError(f"block: expected 0 and the size of a group for {self.weights}, got {self.block}")
        if self.weights == FP8 and self.block:
            check_size("block_n", rows)
        if not self.weights and self.block:
            raise ValueError(f"block: expected none for 16-bit weights, got {self.block}")

    @classmethod
    def of(cls, problem: Problem) -> "ExpertsStep":
        """Parse a problem. Raises ValueError if it is not one of this kernel."""
        sizes: dict[str, Any] = dict(problem.sizes) if isinstance(problem, SizedProblem) else {}
        try:
            experts = Experts(sizes.pop("experts"), sizes.pop("top_k"), sizes.pop("E"))
            block = (sizes.pop("block_n", 0), sizes.pop("block_k")) if "block_k" in sizes else None
            return cls(experts=experts, n=sizes.pop("N"), block=block, **sizes)
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected a problem of {KERNEL}, got {problem}: {error}") from None

    @property
    def problem(self) -> SizedProblem:
        """The step as a problem."""
        sizes: dict[str, Size] = {
            "m": self.m, "E": self.experts.local, "N": self.n, "hidden": self.hidden, "top_k": self.experts.top_k,
            "experts": self.experts.count, "gated": self.gated, "dtype": self.dtype,
        }  # fmt: skip
        # Leave out what is at its default. So studies from before these options existed keep their names.
        if self.weights:
            sizes["weights"] = self.weights
        if self.block:
            sizes |= {"block_k": self.block[1]} | ({"block_n": self.block[0]} if self.block[0] else {})
        if self.zeros:
            sizes["zeros"] = True
        return SizedProblem(KERNEL, tuple(sizes.items()))

    @property
    def is_grouped(self) -> bool:
        """Whether weights are integers with a scale per group of a row. The engine has another kernel for them."""
        return self.weights in GROUPED

    @property
    def activation_bytes(self) -> int:
        """Bytes of one element of the activations."""
        return 1 if self.weights == FP8 else 2

    @property
    def pairs(self) -> int:
        """Number of pairs of a token with one of its experts."""
        return self.m * self.experts.top_k

    @property
    def up(self) -> int:
        """Width of the first product, in elements."""
        return 2 * self.n if self.gated else self.n

    @property
    def products(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Length and width of each of the two products, in elements."""
        return (self.hidden, self.up), (self.n, self.hidden)

    @property
    def is_sorted(self) -> bool:
        """Whether tokens are sorted into blocks. Otherwise each pair has its own block, with one row in use."""
        shared = self.experts.local < self.experts.count
        return shared or self.is_grouped or self.pairs * SPARSITY > self.experts.count
