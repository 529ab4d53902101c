"""A layer's experts in a step of an engine: what a problem of theirs says, with names and types.

Facts of vLLM 0.33.0. Its files, and so the problems, call E the experts whose weights a rank holds, and N the
intermediate size as sharded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import DTYPES, Experts, Problem, Size, SizedProblem, check_size

KERNEL = "fused_experts"

SPARSITY = 4
"""Times the pairs of token and expert that there must be experts for vLLM not to sort the tokens into blocks."""

FP8 = "fp8_w8a8"
INT4 = "int4_w4a16"
GROUPED = ("int8_w8a16", INT4)
WEIGHTS = (FP8, *GROUPED)
"""How weights may be held that are not of 16 bits, as the engine's files name it."""

WEIGHT_BYTES: Mapping[str, float] = {"": 2, FP8: 1, "int8_w8a16": 1, INT4: 0.5}
"""Of one weight."""

ENGINE_NAMES: Mapping[str, str] = {
    "BLOCK_SIZE_M": "block_m",
    "BLOCK_SIZE_N": "block_n",
    "BLOCK_SIZE_K": "block_k",
    "GROUP_SIZE_M": "group_size_m",
    "num_warps": "num_warps",
    "num_stages": "num_stages",
}
"""Parameters of a config by the engine's names, and what other kernels' configs call them."""


@dataclass(frozen=True, slots=True)
class ExpertsStep:
    """What one rank computes of a layer's experts in a step.

    Attributes:
        m: tokens.
        experts: how many there are, and are held by this rank.
        hidden: width of their input and of what they come to, in elements.
        n: intermediate size of an expert, as sharded.
        gated: whether a gate stands beside up: the first product is then twice as wide.
        dtype: element type of the layer's input and output; of activations and weights, too, where weights are of 16
            bits, and of activations where they are integers.
        weights: one of ``WEIGHTS``; nothing for 16 bits.
        block: rows and columns of a weight that share a scale; of fp8 none where a whole expert does. Activations in
            fp8 have a scale for as many elements of a row. Of integers, 0 and the elements of a row.
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
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}: {self.dtype!r}")
        self._check_weights()

    def _check_weights(self) -> None:
        if self.weights and self.weights not in WEIGHTS:
            raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}: {self.weights!r}")
        if type(self.zeros) is not bool or (self.zeros and not self.is_grouped):
            raise ValueError(f"zeros: expected true or false, and true of integers alone, got {self.zeros!r}")
        rows, columns = self.block or (0, 0)
        if self.block:
            check_size("block_k", columns)
        if self.is_grouped and (rows or not columns):
            raise ValueError(f"block: expected 0 and the size of a group for {self.weights}, got {self.block}")
        if self.weights == FP8 and self.block:
            check_size("block_n", rows)
        if not self.weights and self.block:
            raise ValueError(f"block: expected none for weights of 16 bits, got {self.block}")

    @classmethod
    def of(cls, problem: Problem) -> "ExpertsStep":
        """Take a problem apart. Raises ValueError where it is none of this kernel's."""
        sizes: dict[str, Any] = dict(problem.sizes) if isinstance(problem, SizedProblem) else {}
        try:
            experts = Experts(sizes.pop("experts"), sizes.pop("top_k"), sizes.pop("E"))
            block = (sizes.pop("block_n", 0), sizes.pop("block_k")) if "block_k" in sizes else None
            return cls(experts=experts, n=sizes.pop("N"), block=block, **sizes)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a problem of {KERNEL}: {problem}: {error}") from None

    @property
    def problem(self) -> SizedProblem:
        """The step as a problem."""
        sizes: dict[str, Size] = {
            "m": self.m, "E": self.experts.local, "N": self.n, "hidden": self.hidden, "top_k": self.experts.top_k,
            "experts": self.experts.count, "gated": self.gated, "dtype": self.dtype,
        }  # fmt: skip
        # What is as usual is not said, nor was it before there was anything else: studies keep their names.
        if self.weights:
            sizes["weights"] = self.weights
        if self.block:
            sizes |= {"block_k": self.block[1]} | ({"block_n": self.block[0]} if self.block[0] else {})
        if self.zeros:
            sizes["zeros"] = True
        return SizedProblem(KERNEL, tuple(sizes.items()))

    @property
    def is_grouped(self) -> bool:
        """Whether weights are integers with a scale for each group of a row: the engine has a kernel of its own."""
        return self.weights in GROUPED

    @property
    def activation_bytes(self) -> int:
        """Of one element of the activations."""
        return 1 if self.weights == FP8 else 2

    @property
    def pairs(self) -> int:
        """Pairs of a token with an expert that it visits."""
        return self.m * self.experts.top_k

    @property
    def up(self) -> int:
        """Width of the first product, in elements."""
        return 2 * self.n if self.gated else self.n

    @property
    def products(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Length and width of the two products, in elements."""
        return (self.hidden, self.up), (self.n, self.hidden)

    @property
    def is_sorted(self) -> bool:
        """Whether tokens are sorted into blocks; else each pair is a block of its own, with one row that is used."""
        shared = self.experts.local < self.experts.count
        return shared or self.is_grouped or self.pairs * SPARSITY > self.experts.count
