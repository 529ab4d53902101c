"""A chunked LoRA product in a step: a problem of it with names and types. Facts of SGLang 0.5.23."""

from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import DTYPES, MOST_SLICES, Problem, Size, SizedProblem, check_size

SHRINK, EXPAND = "csgmv_shrink", "csgmv_expand"
KERNELS = (SHRINK, EXPAND)

CHUNK_SIZES = (16, 32, 64, 128)
"""Chunk sizes, in tokens, with which an engine may be started; also the possible keys of its files."""

FEWEST_TOKENS = ((256, 128), (64, 32))
"""Pairs of a number of tokens and a chunk size. From that many tokens per step, the engine uses that chunk size if it
may, and otherwise the smallest."""


def chunk_of(tokens: int, most: int) -> int:
    """Return the size of the chunks that a step is cut into.

    Args:
        tokens: in the step.
        most: the engine's ``--max-lora-chunk-size``.
    """
    wanted = next((chunk for fewest, chunk in FEWEST_TOKENS if tokens >= fewest), CHUNK_SIZES[0])
    return min(most, wanted)


@dataclass(frozen=True, slots=True)
class CsgmvStep:
    """One product of a layer's adapters.

    Attributes:
        kernel: one of ``KERNELS``.
        m: tokens in the step.
        chunk: most tokens of one adapter that a program takes.
        adapters: number of adapters that the engine has room for (``--max-loras-per-batch``).
        k: sharded width of the layer's input (shrink).
        rank: the engine's ``--max-lora-rank``.
        slices: number of layers fused into one.
        widths: sharded widths of the slices' outputs (expand); empty for shrink.
        dtype: element type of activations and weights.
    """

    kernel: str
    m: int
    chunk: int
    adapters: int
    rank: int
    k: int = 0
    slices: int = 1
    widths: tuple[int, ...] = ()
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel: expected one of {', '.join(KERNELS)}, got {self.kernel!r}")
        for name in ("m", "adapters", "rank", "slices"):
            check_size(name, getattr(self, name))
        if self.chunk not in CHUNK_SIZES:
            raise ValueError(f"chunk: expected one of {', '.join(map(str, CHUNK_SIZES))}, got {self.chunk!r}")
        if self.slices > MOST_SLICES:
            raise ValueError(f"slices: expected at most {MOST_SLICES}, got {self.slices}")
        if self.kernel == EXPAND and len(self.widths) != self.slices:
            raise ValueError(f"widths: expected one for each of the {self.slices} slices, got {self.widths}")
        for name, size in [("widths", width) for width in self.widths] if self.kernel == EXPAND else [("k", self.k)]:
            check_size(name, size)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @classmethod
    def of(cls, problem: Problem) -> "CsgmvStep":
        """Parse a problem. Raises ValueError if it is not one of these kernels."""
        sizes: dict[str, Any] = dict(problem.sizes) if isinstance(problem, SizedProblem) else {}
        try:
            if "widths" in sizes:
                sizes["widths"] = tuple(map(int, str(sizes["widths"]).split("-")))
                sizes["slices"] = len(sizes["widths"])
            return cls(problem.kernel, **sizes)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected a problem of {' or '.join(KERNELS)}, got {problem}: {error}") from None

    @property
    def problem(self) -> SizedProblem:
        """The step as a problem."""
        sizes: dict[str, Size] = {"m": self.m, "chunk": self.chunk, "adapters": self.adapters, "rank": self.rank}
        own: dict[str, Size] = {"k": self.k, "slices": self.slices}
        if self.kernel == EXPAND:
            own = {"widths": "-".join(map(str, self.widths))}
        return SizedProblem(self.kernel, tuple({**sizes, **own, "dtype": self.dtype}.items()))

    @property
    def wide(self) -> int:
        """The long side of the weights, which is in file names: the input of shrink, the whole output of expand."""
        return sum(self.widths) if self.kernel == EXPAND else self.k

    @property
    def length(self) -> int:
        """Length of the product, in elements."""
        return self.rank if self.kernel == EXPAND else self.k

    @property
    def outputs(self) -> tuple[int, ...]:
        """Widths of the parts that one launch writes. No program reaches across the end of a part."""
        return self.widths if self.kernel == EXPAND else (self.slices * self.rank,)
