"""The surroundings of a kernel in an engine, as far as they affect which config is best. Pure data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from bo_tune.core.problem import Experts, LoraProblem, Problem, check_size
from bo_tune.core.space import Config

SHRINK, EXPAND = "lora_shrink", "lora_expand"
"""The kernels of a linear layer."""

MOE = "fused_moe_lora"
"""Common part of the names of the experts' kernels."""

MOE_KERNELS = tuple(f"{MOE}_{part}_{half}" for part in ("w13", "w2") for half in ("shrink", "expand"))
"""The kernels of a layer's experts, in the order in which the layer runs them."""

Choice = Mapping[str, Config]
"""A config for each kernel of a layer, by name. Experts run theirs in this order."""


class Weights(StrEnum):
    """How the weights of a base layer are stored."""

    BITS_16 = "16-bit"
    FP8 = "fp8"
    INT4 = "int4"

    @property
    def bits(self) -> int:
        """Bits of one weight."""
        return {Weights.BITS_16: 16, Weights.FP8: 8, Weights.INT4: 4}[self]


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's tokens and their adapters, as far as a linear's two kernels depend on them.

    Attributes:
        max_loras: adapter slots of the engine.
        rank: rank of the adapters.
        m: number of tokens.
        dtype: element type of activations and weights.
    """

    max_loras: int
    rank: int
    m: int
    dtype: str = "bfloat16"

    @classmethod
    def of(cls, problem: LoraProblem) -> "Batch":
        """Return the batch that a layer's kernel serves. No other rank may share its adapters' rank."""
        rank = problem.n if problem.kernel == SHRINK else problem.k
        return cls(problem.max_loras, rank, problem.m, problem.dtype)


@dataclass(frozen=True, slots=True, order=True)
class Linear:
    """A linear layer of the base model, as one rank runs it: the product that shrink and expand run beside.

    Attributes:
        k: width of its input, in elements.
        widths: widths of its fused output slices, in elements.
        adds: whether expand adds to the base product, and so runs after it. An expand that overwrites runs beside it,
            on a separate stream.
        weights: how its weights are stored.
    """

    k: int
    widths: tuple[int, ...]
    adds: bool = True
    weights: Weights = Weights.BITS_16

    def __post_init__(self) -> None:
        for size in (self.k, *self.widths):
            check_size("linear", size)

    @property
    def weight_bytes(self) -> int:
        """Device memory of its weights, in bytes."""
        return self.k * sum(self.widths) * self.weights.bits // 8

    def problems(self, problem: LoraProblem) -> tuple[LoraProblem, LoraProblem]:
        """Return the shrink and the expand of the layer, one of which is this problem.

        Raises:
            ValueError: it is a problem of another layer, or of another kernel.
        """
        pair = self.kernels(Batch.of(problem))
        if problem not in pair:
            raise ValueError(f"expected a problem of {self}, got {problem}")
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

    def holds(self, problem: Problem) -> bool:
        """Say whether a problem belongs to one of the layer's kernels."""
        return isinstance(problem, LoraProblem) and problem in self.kernels(Batch.of(problem))

    def beside(self, problem: LoraProblem) -> LoraProblem:
        """Return the problem of the layer's other kernel. Raises ValueError like ``problems``."""
        shrink, expand = self.problems(problem)
        return expand if problem == shrink else shrink

    def to_json(self) -> dict[str, Any]:
        """Return the layer as plain values."""
        stored = {"k": self.k, "widths": list(self.widths), "adds": self.adds}
        return stored if self.weights is Weights.BITS_16 else {**stored, "weights": str(self.weights)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Linear":
        """Read the result of ``to_json``. Raises ValueError."""
        try:
            weights = Weights(stored.get("weights", Weights.BITS_16))
            return cls(stored["k"], tuple(stored["widths"]), stored["adds"], weights)
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected the JSON of a linear layer: {error}") from None


@dataclass(frozen=True, slots=True, order=True)
class Mixture:
    """The experts of a layer of the base model, as one rank runs them: two products, each followed by its adapters'.

    Attributes:
        hidden: width of their input and output, in elements.
        up: width of an expert's first product, gate and up together, in elements.
        down: length of its second product, in elements.
    """

    hidden: int
    up: int
    down: int
    experts: Experts

    def __post_init__(self) -> None:
        for name in ("hidden", "up", "down"):
            check_size(f"experts: {name}", getattr(self, name))
        if self.up not in (self.down, 2 * self.down):
            raise ValueError(f"experts: expected up to equal down or twice down, got {self.up} and {self.down}")

    @property
    def is_gated(self) -> bool:
        """Whether half of the first product gates the other half."""
        return self.up == 2 * self.down

    @property
    def weight_bytes(self) -> int:
        """Device memory of this rank's weights in 16 bits, in bytes."""
        return 2 * self.experts.local * self.hidden * (self.up + self.down)

    @classmethod
    def of(cls, problem: LoraProblem) -> "Mixture":
        """Return the experts of a problem of gate and up. Raises ValueError if it belongs to another kernel."""
        if problem.kernel not in MOE_KERNELS[:2] or problem.experts is None or problem.i is None:
            raise ValueError(f"expected a problem of gate and up, got {problem}")
        up = problem.num_slices * problem.i
        return cls(problem.n, up, problem.i // 2 if problem.experts.packed else problem.i, problem.experts)

    def kernels(self, batch: Batch) -> tuple[LoraProblem, ...]:
        """Return the problems of ``MOE_KERNELS`` in a step."""
        slices = 2 if self.is_gated and not self.experts.packed else 1
        sizes = {"w13": (slices, self.up // slices), "w2": (1, self.down)}
        return tuple(
            LoraProblem(
                kernel, batch.max_loras, slices, batch.m, batch.rank, self.hidden, i,
                dtype=batch.dtype, experts=self.experts,
            )
            for part, (slices, i) in sizes.items()
            for kernel in MOE_KERNELS
            if part in kernel
        )  # fmt: skip

    def holds(self, problem: Problem) -> bool:
        """Say whether a problem belongs to one of the layer's kernels."""
        return isinstance(problem, LoraProblem) and problem in self.kernels(Batch.of(problem))

    def to_json(self) -> dict[str, Any]:
        """Return the layer as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Mixture":
        """Read the result of ``to_json``. Raises ValueError."""
        try:
            return cls(stored["hidden"], stored["up"], stored["down"], Experts(**stored["experts"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected the JSON of a layer's experts: {error}") from None


Layer = Linear | Mixture
"""The layer of the base model in which a kernel runs."""


def asked_of(layer: Layer | None) -> dict[str, Any]:
    """Return the JSON that asks a search to race its finalists in a layer; empty for no layer."""
    return {} if layer is None else {"in_place": layer.to_json()}


def layer_from_json(stored: Mapping[str, Any]) -> Layer:
    """Read a layer from the result of ``to_json``. Raises ValueError."""
    return Mixture.from_json(stored) if "hidden" in stored else Linear.from_json(stored)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The surroundings of a kernel in an engine, to time it in place.

    Attributes:
        layer: the layer in which the kernel, or the group of kernels, runs.
        beside: configs of the layer's other kernels, by name.
        active: numbers of adapters that steps use, as a mix; empty to use the device's conditions.
    """

    layer: Layer
    beside: Choice = field(default_factory=dict)
    active: tuple[int, ...] = ()
