"""The conditions of a problem's measurement, and the toolchain. Pure data."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

ASSEMBLER = "assembler"
"""Name of a vendor's assembler in a toolchain. NVIDIA's has its own name, because it was once the only one."""

TOOLCHAIN = ("triton", "ptxas", ASSEMBLER, "torch")
"""Software that makes a kernel's binary and launches it. Another version of any of it may change every time."""

NO_VERSIONS = "versions not recorded"
"""Toolchain of data without versions, as in some recordings."""

UNKNOWN = "toolchain unknown"
"""Toolchain of studies whose names do not have it: those of schema 1 (``store.attributes``)."""

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_~()/ -]{0,59}")


def toolchain_label(versions: Mapping[str, str]) -> str:
    """Return the name of a toolchain, as far as it is known: ``triton 3.6.0, ptxas 12.8.35583870, torch 2.11.0``.

    A version that is not a plain word (a recording's may be anything) is replaced by its digest.
    """
    known = [f"{name} {_plain(versions[name])}" for name in TOOLCHAIN if versions.get(name)]
    return ", ".join(known) or NO_VERSIONS


def _plain(version: str) -> str:
    return version if _VERSION.fullmatch(version) else hashlib.sha256(version.encode(errors="replace")).hexdigest()[:8]


class Timing(StrEnum):
    """The content of the L2 cache for a repetition, and how it is launched."""

    COLD = "cold"
    """The cache is cleared before each launch, as in a model, where other layers ran in between."""
    WARM = "warm"
    """The cache holds what the launch before left."""
    GRAPH = "graph"
    """As warm, with many launches replayed in one CUDA graph. The repetition is their mean."""


class Tokens(StrEnum):
    """How the tokens of a step are spread over the adapters."""

    UNIFORM = "uniform"
    """Every adapter is equally likely."""
    ONE = "one"
    """All tokens use one adapter."""
    ZIPF = "zipf"
    """The r-th adapter is 1 / r as likely as the first."""


class Routing(StrEnum):
    """How likely experts are to be chosen. Each token visits different ones in any case."""

    UNIFORM = "uniform"
    """All experts are equally likely."""
    ZIPF = "zipf"
    """The r-th expert is 1 / r as likely as the first."""
    RECORDED = "recorded"
    """In proportion to each expert's hits, as an engine recorded them."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a measurement. Measurements under different conditions never share a study.

    Attributes:
        adapters: number of adapters that the tokens of a step use; None for all of the engine's slots.
        routing: how tokens choose experts; has no meaning for dense kernels.
        hits: number of hits of each expert, for ``Routing.RECORDED``; otherwise empty.
        dual_stream: whether launches are those of an engine that runs adapters on a separate stream. vLLM's dense
            kernels then overlap with the kernel before (programmatic dependent launch), which is another binary.
    """

    timing: Timing = Timing.COLD
    tokens: Tokens = Tokens.UNIFORM
    adapters: int | None = None
    routing: Routing = Routing.UNIFORM
    hits: tuple[int, ...] = ()
    dual_stream: bool = False

    def __post_init__(self) -> None:
        if (self.routing is Routing.RECORDED) != bool(self.hits) or min(self.hits, default=0) < 0:
            raise ValueError("expected numbers of hits of experts with recorded routing, and with no other")
        if self.adapters is not None and self.adapters < 1:
            raise ValueError(f"adapters: a step uses at least one, got {self.adapters}")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Conditions":
        """Read the result of ``to_json``."""
        enums = {"timing": Timing(stored["timing"]), "tokens": Tokens(stored["tokens"])}
        return cls(**{**stored, **enums, "routing": Routing(stored["routing"]), "hits": tuple(stored["hits"])})

    def to_json(self) -> dict[str, Any]:
        """Return the conditions as plain values."""
        return asdict(self)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which vLLM's launchers launch as such an engine does."""
        return {"VLLM_LORA_ENABLE_DUAL_STREAM": str(int(self.dual_stream))}

    @property
    def label(self) -> str:
        """The conditions that differ from the defaults, in a word; empty if none do."""
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
