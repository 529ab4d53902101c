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
        dtype: element type of activations and weights.
    """

    m: int
    experts: Experts
    hidden: int
    n: int
    gated: bool = True
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("m", "hidden", "n"):
            check_size(name, getattr(self, name))
        if type(self.gated) is not bool:
            raise ValueError(f"gated: expected true or false, got {self.gated!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}: {self.dtype!r}")

    @classmethod
    def of(cls, problem: Problem) -> "ExpertsStep":
        """Take a problem apart. Raises ValueError where it is none of this kernel's."""
        sizes: dict[str, Any] = dict(problem.sizes) if isinstance(problem, SizedProblem) else {}
        try:
            experts = Experts(sizes.pop("experts"), sizes.pop("top_k"), sizes.pop("E"))
            return cls(experts=experts, n=sizes.pop("N"), **sizes)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a problem of {KERNEL}: {problem}: {error}") from None

    @property
    def problem(self) -> SizedProblem:
        """The step as a problem."""
        sizes: dict[str, Size] = {
            "m": self.m, "E": self.experts.local, "N": self.n, "hidden": self.hidden, "top_k": self.experts.top_k,
            "experts": self.experts.count, "gated": self.gated, "dtype": self.dtype,
        }  # fmt: skip
        return SizedProblem(KERNEL, tuple(sizes.items()))

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
        return self.experts.local < self.experts.count or self.pairs * SPARSITY > self.experts.count
