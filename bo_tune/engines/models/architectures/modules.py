"""The modules of a model that vLLM's LoRA manager wraps, before sharding over tensor-parallel ranks.

Read from vLLM 0.33.0, ``lora/layers``. The treatment of a module follows from its class (``Kind``). If it holds several
projections, it also depends on the number of names that adapters have for its parts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

LAYER_INDEX = "layers.*."
"""Prefix of the paths of modules in decoder layers, in most models."""

NEVER_CALLED = frozenset({"conv", "conv1d", "shared_expert_gate"})
"""Last parts of the names of modules that vLLM wraps, but whose adapters it never runs."""


class Kind(StrEnum):
    """The kind of a module for the LoRA manager."""

    COLUMN = "column"
    MERGED = "merged"
    QKV = "qkv"
    ROW = "row"
    REPLICATED = "replicated"
    EMBEDDING = "embedding"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class Module:
    """One module that takes adapters, not sharded.

    Attributes:
        path: its name in the engine's model, below ``Naming.prefix``, with ``*`` for the number of a decoder layer.
        inputs: input width, in elements; 0 for an embedding, whose A is a table of rows.
        outputs: output widths of its projections, in elements.
        parts: names of these projections in adapters, last parts only; empty for its own name.
        kv_heads: key-value heads of a QKV module. If there are more ranks, they share them.
        replicated: whether each rank holds all of it even though its class can be sharded: its own tensor-parallel size
            is 1.
        own_forward: whether its class has a forward of its own.
        called: whether the engine ever runs its adapters.
        multiples: fields of the config with their values, which the number of ranks must divide.
        known_as: the parent in adapters' names, if the engine renames it; None for the path's own parent.
        repeated: indices of the outputs that every rank holds whole. On several ranks, all outputs are then one
            projection.
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
        """Its name for tables, without the number of its layer and the common prefix of the layer's parts."""
        parent = self.path.rpartition(".")[0] if self.known_as is None else self.known_as
        return f"{parent}.{self.suffix}".rpartition("*.")[2].partition(".")[2] or self.suffix

    def on(self, ranks: int) -> "Module":
        """Return the module that the engine builds in its place on several ranks."""
        if not self.repeated or ranks == 1:
            return self
        width = sum(size * ranks if index in self.repeated else size for index, size in enumerate(self.outputs))
        return replace(self, kind=Kind.COLUMN, outputs=(width,), parts=(), repeated=())

    @property
    def slices(self) -> int:
        """Number of pairs of A and B that an adapter has for it."""
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
        """Whether vLLM can wrap it with ``--fully-sharded-loras``. It cannot wrap merged modules of variable slices."""
        return self.kind is not Kind.MERGED or len(self.parts) == 2 or (len(self.parts) == 1 and not self._split)

    @property
    def target_names(self) -> frozenset[str]:
        """Last parts of names with which ``--lora-target-modules`` chooses it."""
        return frozenset({self.suffix, *self.parts})

    def adapter_names(self) -> tuple[str, ...]:
        """Return its names in adapters, below the prefix of the model, with ``*`` for a layer's number."""
        parent = self.path.rpartition(".")[0] if self.known_as is None else self.known_as
        names = self.parts or (self.suffix,)
        return tuple(f"{parent}.{name}" if parent else name for name in names)


@dataclass(frozen=True, slots=True)
class Naming:
    """Prefixes of the full names of modules.

    Attributes:
        prefix: prefix in the engine's model.
        adapter_prefixes: prefixes in the models on which adapters are trained; several if versions of ``transformers``
            differ.
    """

    prefix: str = "model."
    adapter_prefixes: tuple[str, ...] = ("model.",)

    def engine_name(self, module: Module) -> str:
        """Return the full name in the engine's model, with ``*`` for a layer's number."""
        return self._outer(self.prefix) + module.path if module.kind is Kind.HEAD else self.prefix + module.path

    def adapter_names(self, module: Module, layers: int) -> Iterator[str]:
        """Yield every full name that a module may have in adapters.

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
        """Return the prefix of modules beside the model's body."""
        return prefix[: prefix.removesuffix(".").rfind(".") + 1]


def numbered(name: str, layers: int) -> Iterator[str]:
    """Yield a name for each layer. ``*`` stands for the layer's number."""
    if "*" not in name:
        yield name
        return
    yield from (name.replace("*", str(index), 1) for index in range(layers))


def is_named(full_name: str, name: str) -> bool:
    """Say whether a full name, with ``*`` for numbers, matches the given one."""
    return re.fullmatch(re.escape(full_name).replace(r"\*", r"\d+"), name) is not None


def suffixes(modules: Sequence[Module]) -> tuple[str, ...]:
    """Return the names with which ``--lora-target-modules`` chooses some modules, each once."""
    return tuple(dict.fromkeys(module.suffix for module in modules))
