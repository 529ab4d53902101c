"""Modules of a whole model that vLLM's LoRA manager wraps, before they are spread over tensor-parallel ranks.

Read from vLLM 0.33.0, ``lora/layers``: what becomes of a module follows from its class (``Kind``), and, for one that
holds several projections, from how many names adapters know its parts by.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

LAYER_INDEX = "layers.*."
"""How the paths of modules in decoder layers begin, in most models."""

NEVER_CALLED = frozenset({"conv", "conv1d", "shared_expert_gate"})
"""Last parts of the names of modules that vLLM wraps, and whose adapters it never runs."""


class Kind(StrEnum):
    """What a module is to the LoRA manager."""

    COLUMN = "column"
    MERGED = "merged"
    QKV = "qkv"
    ROW = "row"
    REPLICATED = "replicated"
    EMBEDDING = "embedding"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class Module:
    """One module that takes adapters, whole.

    Attributes:
        path: its name in the engine's model, below ``Naming.prefix``; ``*`` for the number of a decoder layer.
        inputs: input width, in elements; 0 for an embedding, whose A is a table of rows.
        outputs: output widths of the projections it holds, in elements.
        parts: names under which adapters know these projections, last parts only; empty for its own.
        kv_heads: of a QKV module: key-value heads, which ranks share where there are more ranks.
        replicated: whether each rank holds all of it though its class can be spread: its own tensor-parallel size is 1.
        own_forward: whether its class brings a forward of its own.
        called: whether the engine ever runs the adapters of it.
        multiples: fields of the config with their values, which ranks must divide.
        known_as: parent that adapters know it under, where the engine renames it; None for the path's own.
        repeated: which of the outputs every rank holds whole; on several ranks all are then one projection.
    """

    path: str
    kind: Kind
    inputs: int
    outputs: tuple[int, ...]
    parts: tuple[str, ...] = ()
    kv_heads: int = 0
    replicated: bool = False
    own_forward: bool = False
    called: bool = True
    multiples: tuple[tuple[str, int], ...] = ()
    known_as: str | None = None
    repeated: tuple[int, ...] = ()

    @property
    def suffix(self) -> str:
        """The last part of its name, by which engines and adapters choose modules."""
        return self.path.rpartition(".")[2]

    @property
    def label(self) -> str:
        """Its name as tables show it: without the number of its layer and what all of the layer's parts share."""
        parent = self.path.rpartition(".")[0] if self.known_as is None else self.known_as
        return f"{parent}.{self.suffix}".rpartition("*.")[2].partition(".")[2] or self.suffix

    def on(self, ranks: int) -> "Module":
        """Return what the engine builds in its place on several ranks."""
        if not self.repeated or ranks == 1:
            return self
        width = sum(size * ranks if index in self.repeated else size for index, size in enumerate(self.outputs))
        return replace(self, kind=Kind.COLUMN, outputs=(width,), parts=(), repeated=())

    @property
    def slices(self) -> int:
        """How many pairs of A and B an adapter has for it."""
        return len(self.outputs) if self._split else 1

    @property
    def _split(self) -> bool:
        """Whether each projection keeps an A and B of its own."""
        names = len(self.parts)
        if self.kind is Kind.QKV:
            return names == len(self.outputs)
        return self.kind is Kind.MERGED and (names > 1 or len(self.outputs) > 2)

    @property
    def shared_fully(self) -> bool:
        """Whether vLLM can wrap it with ``--fully-sharded-loras``: not a merged one of variable slices."""
        return self.kind is not Kind.MERGED or len(self.parts) == 2 or (len(self.parts) == 1 and not self._split)

    @property
    def target_names(self) -> frozenset[str]:
        """Last parts of names by which ``--lora-target-modules`` chooses it."""
        return frozenset({self.suffix, *self.parts})

    def adapter_names(self) -> tuple[str, ...]:
        """Return the names that adapters know it under, below the prefix of the model; ``*`` for a layer's number."""
        parent = self.path.rpartition(".")[0] if self.known_as is None else self.known_as
        names = self.parts or (self.suffix,)
        return tuple(f"{parent}.{name}" if parent else name for name in names)


@dataclass(frozen=True, slots=True)
class Naming:
    """What full names of modules begin with.

    Attributes:
        prefix: in the engine's model.
        adapter_prefixes: in the models that adapters are trained on; several where versions of ``transformers`` differ.
    """

    prefix: str = "model."
    adapter_prefixes: tuple[str, ...] = ("model.",)

    def engine_name(self, module: Module) -> str:
        """Return the full name in the engine's model, ``*`` for a layer's number."""
        return self._outer(self.prefix) + module.path if module.kind is Kind.HEAD else self.prefix + module.path

    def adapter_names(self, module: Module, layers: int) -> Iterator[str]:
        """Yield every full name that adapters may know a module under.

        Args:
            layers: number of decoder layers.
        """
        for prefix in self.adapter_prefixes:
            start = self._outer(prefix) if module.kind is Kind.HEAD else prefix
            for name in module.adapter_names():
                yield from numbered(start + name, layers)
        if module.kind is Kind.HEAD:
            yield module.path

    @staticmethod
    def _outer(prefix: str) -> str:
        """Return the prefix of what stands beside the model's body."""
        return prefix[: prefix.removesuffix(".").rfind(".") + 1]


def numbered(name: str, layers: int) -> Iterator[str]:
    """Yield a name for each layer, ``*`` standing for its number."""
    if "*" not in name:
        yield name
        return
    yield from (name.replace("*", str(index), 1) for index in range(layers))


def is_named(full_name: str, name: str) -> bool:
    """Say whether a full name, with ``*`` for numbers, is the one given."""
    return re.fullmatch(re.escape(full_name).replace(r"\*", r"\d+"), name) is not None


def suffixes(modules: Sequence[Module]) -> tuple[str, ...]:
    """Return the names by which ``--lora-target-modules`` chooses some modules, each once."""
    return tuple(dict.fromkeys(module.suffix for module in modules))
