"""Under which conditions a problem is measured, and by what toolchain. Pure data."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

ASSEMBLER = "assembler"
"""What a vendor's assembler is called in a toolchain; NVIDIA's has its own name, from before there were others."""

TOOLCHAIN = ("triton", "ptxas", ASSEMBLER, "torch")
"""What makes a kernel's binary and launches it; another version of one may change every time."""

NO_VERSIONS = "versions not recorded"
"""Toolchain of what says nothing of it, as a recording may."""

UNKNOWN = "toolchain unknown"
"""What is said of studies whose names do not tell it: those of schema 1 (``store.attributes``)."""

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_~()/ -]{0,59}")


def toolchain_label(versions: Mapping[str, str]) -> str:
    """Return what names a toolchain: ``triton 3.6.0, ptxas 12.8.35583870, torch 2.11.0``, as far as it is known.

    A version that is no plain word (a recording's may be anything) is named by its digest.
    """
    known = [f"{name} {_plain(versions[name])}" for name in TOOLCHAIN if versions.get(name)]
    return ", ".join(known) or NO_VERSIONS


def _plain(version: str) -> str:
    return version if _VERSION.fullmatch(version) else hashlib.sha256(version.encode(errors="replace")).hexdigest()[:8]


class Timing(StrEnum):
    """What a repetition finds in the L2 cache, and how it is launched."""

    COLD = "cold"
    """Nothing of its own: the cache is cleared before each launch. As in a model, where other layers ran between."""
    WARM = "warm"
    """What the launch before left."""
    GRAPH = "graph"
    """As warm; many launches replayed in one CUDA graph, with their mean as the repetition."""


class Tokens(StrEnum):
    """How the tokens of a step are spread over the adapters."""

    UNIFORM = "uniform"
    """Every adapter is equally likely."""
    ONE = "one"
    """All tokens use one adapter."""
    ZIPF = "zipf"
    """The r-th adapter is 1 / r as likely as the first."""


class Routing(StrEnum):
    """How likely experts are to be chosen. Each token visits different ones, whatever the spread."""

    UNIFORM = "uniform"
    """All alike."""
    ZIPF = "zipf"
    """The r-th expert is 1 / r as likely as the first."""
    RECORDED = "recorded"
    """In proportion to how often each was hit, as an engine recorded it."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Measurements under different conditions never share a study.

    Attributes:
        adapters: how many adapters the tokens of a step use; None for all that the engine has slots for.
        routing: how tokens choose experts; of no meaning for dense kernels.
        hits: how often each expert was hit, for ``Routing.RECORDED``; empty else.
        dual_stream: whether launches are those of an engine that runs adapters on a stream of their own: vLLM's dense
            kernels then overlap with the one before (programmatic dependent launch), which is another binary.
    """

    timing: Timing = Timing.COLD
    tokens: Tokens = Tokens.UNIFORM
    adapters: int | None = None
    routing: Routing = Routing.UNIFORM
    hits: tuple[int, ...] = ()
    dual_stream: bool = False

    def __post_init__(self) -> None:
        if (self.routing is Routing.RECORDED) != bool(self.hits) or min(self.hits, default=0) < 0:
            raise ValueError("recorded routing needs how often each expert was hit, and no other does")
        if self.adapters is not None and self.adapters < 1:
            raise ValueError("a step uses at least one adapter")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Conditions":
        """Read what ``to_json`` wrote."""
        enums = {"timing": Timing(stored["timing"]), "tokens": Tokens(stored["tokens"])}
        return cls(**{**stored, **enums, "routing": Routing(stored["routing"]), "hits": tuple(stored["hits"])})

    def to_json(self) -> dict[str, Any]:
        """Return the conditions as plain values."""
        return asdict(self)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make vLLM's launchers launch as such an engine does."""
        return {"VLLM_LORA_ENABLE_DUAL_STREAM": str(int(self.dual_stream))}

    @property
    def label(self) -> str:
        """What is not as usual, in a word; empty where nothing is."""
        unusual = (self.timing, Conditions().timing), (self.tokens, Conditions().tokens)
        parts = [str(value) for value, usual in unusual if value is not usual]
        if self.adapters is not None:
            parts.append(f"{self.adapters} adapters")
        if self.routing is not Routing.UNIFORM:
            digest = hashlib.sha256(repr(self.hits).encode()).hexdigest()[:8] if self.hits else ""
            parts.append(f"experts {self.routing} {digest}".strip())
        if self.dual_stream:
            parts.append("two streams")
        return ".".join(parts)
