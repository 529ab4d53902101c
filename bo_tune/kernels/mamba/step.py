"""A Mamba-2 layer's decode step: a problem of it with names and types. Facts of vLLM 0.33.0."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import DTYPES, Problem, Size, SizedProblem, check_size

KERNEL = "selective_state_update"

STATE_DTYPES = ("float32", *DTYPES)
"""Element types in which an engine may keep states."""


@dataclass(frozen=True, slots=True)
class MambaStep:
    """The work of one rank for a layer in a step.

    Attributes:
        sequences: sequences that decode in the step, each with one token.
        heads: heads on this rank.
        headdim: channels of a head.
        dstate: size of the state of a channel.
        groups: groups on this rank. The heads of a group share B and C.
        dtype: element type of activations.
        state_dtype: element type of the states.
    """

    sequences: int
    heads: int
    headdim: int
    dstate: int
    groups: int = 1
    dtype: str = "bfloat16"
    state_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("sequences", "heads", "headdim", "dstate", "groups"):
            check_size(name, getattr(self, name))
        if self.heads % self.groups:
            raise ValueError(f"heads: expected a multiple of the {self.groups} groups, got {self.heads}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.state_dtype not in STATE_DTYPES:
            raise ValueError(f"state_dtype: expected one of {', '.join(STATE_DTYPES)}, got {self.state_dtype!r}")

    @classmethod
    def of(cls, problem: Problem) -> "MambaStep":
        """Parse a problem. Raises ValueError if it is not one of this kernel."""
        sizes: Mapping[str, Any] = dict(problem.sizes) if isinstance(problem, SizedProblem) else {}
        try:
            return cls(**sizes)
        except TypeError as error:
            raise ValueError(f"expected a problem of {KERNEL}, got {problem}: {error}") from None

    @property
    def problem(self) -> SizedProblem:
        """The step as a problem."""
        sizes: dict[str, Size] = {
            "sequences": self.sequences, "heads": self.heads, "headdim": self.headdim, "dstate": self.dstate,
            "groups": self.groups, "dtype": self.dtype, "state_dtype": self.state_dtype,
        }  # fmt: skip
        return SizedProblem(KERNEL, tuple(sizes.items()))

    @property
    def key(self) -> int:
        """The number under which the engine looks up the step: pairs of a sequence and a head."""
        return self.sequences * self.heads

    @property
    def file_dtype(self) -> str:
        """The states' element type as in the names of the engine's files. The two 16-bit types share a name."""
        return "float16" if self.state_dtype in DTYPES else self.state_dtype
