"""What runs around a kernel in an engine, as far as it decides on what is best there. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import LoraProblem, check_size
from bo_tune.core.space import Config

SHRINK, EXPAND = "lora_shrink", "lora_expand"

Pair = tuple[Config, Config]
"""Configs of a linear's shrink and expand."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's tokens and their adapters, as far as a linear's two kernels depend on them.

    Attributes:
        max_loras: adapter slots of the engine.
        rank: of the adapters.
        m: tokens.
        dtype: element type of activations and weights.
    """

    max_loras: int
    rank: int
    m: int
    dtype: str = "bfloat16"

    @classmethod
    def of(cls, problem: LoraProblem) -> "Batch":
        """Return the batch that a linear's kernel serves."""
        rank = problem.n if problem.kernel == SHRINK else problem.k
        return cls(problem.max_loras, rank, problem.m, problem.dtype)


@dataclass(frozen=True, slots=True, order=True)
class Linear:
    """A linear layer of the base model, as one rank runs it: the product that shrink and expand stand beside.

    Attributes:
        k: width of its input, in elements.
        widths: widths of its fused output slices, in elements.
        adds: whether expand adds to the base product, which it then follows. An expand that overwrites runs beside it,
            on a stream of its own.
    """

    k: int
    widths: tuple[int, ...]
    adds: bool = True

    def __post_init__(self) -> None:
        for size in (self.k, *self.widths):
            check_size("linear", size)

    @property
    def weight_bytes(self) -> int:
        """Device memory of its weights in 16 bits, in bytes."""
        return 2 * self.k * sum(self.widths)

    def problems(self, problem: LoraProblem) -> tuple[LoraProblem, LoraProblem]:
        """Return the shrink and the expand of the layer, one of which is this problem.

        Raises:
            ValueError: it is a problem of another layer, or of another kernel.
        """
        pair = self.kernels(Batch.of(problem))
        if problem not in pair:
            raise ValueError(f"not a problem of {self}: {problem}")
        return pair

    def kernels(self, batch: Batch) -> tuple[LoraProblem, LoraProblem]:
        """Return the shrink and the expand of the layer in a step."""
        common = batch.max_loras, len(self.widths), batch.m
        shrink = LoraProblem(SHRINK, *common, self.k, batch.rank, dtype=batch.dtype)
        expand = LoraProblem(
            EXPAND, *common, batch.rank, max(self.widths), dtype=batch.dtype, slice_sizes=self.widths,
            add_inputs=self.adds,
        )  # fmt: skip
        return shrink, expand

    def holds(self, problem: LoraProblem) -> bool:
        """Say whether it is the problem of one of the layer's kernels."""
        try:
            self.problems(problem)
        except ValueError:
            return False
        return True

    def beside(self, problem: LoraProblem) -> LoraProblem:
        """Return the problem of the layer's other kernel. Raises ValueError as ``problems`` does."""
        shrink, expand = self.problems(problem)
        return expand if problem == shrink else shrink

    def to_json(self) -> dict[str, Any]:
        """Return the layer as plain values."""
        return {"k": self.k, "widths": list(self.widths), "adds": self.adds}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Linear":
        """Read what ``to_json`` made of a layer. Raises ValueError."""
        try:
            return cls(stored["k"], tuple(stored["widths"]), stored["adds"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a linear layer: {error}") from None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an engine runs around a kernel, for timing it in place.

    Attributes:
        linear: the layer.
        beside: the config of the layer's other kernel.
        active: how many adapters steps use, a mix of them; nothing for what the device measures under.
    """

    linear: Linear
    beside: dict[str, int]
    active: tuple[int, ...] = ()
