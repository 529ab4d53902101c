"""The layers of a model that take adapters, as one tensor-parallel rank holds them.

Notation: P tensor-parallel size, R rank.

=========== =================== ====== ============================== ================== ===========
module      shrink k            slices expand n per slice             fully sharded      two streams
=========== =================== ====== ============================== ================== ===========
column      input               1      output/P                       shrink n = R/P     overwrites
merged, qkv input               parts  output/P, a head at least      shrink n = R/P     overwrites
row         input/P             1      output                         expand n: output/P overwrites
replicated  input               1      output                         the same           adds
embedding   none: rows of A     1      width                          the same           adds
lm_head     hidden              1      vocabulary, on every rank      the same           adds
=========== =================== ====== ============================== ================== ===========

Shrink asks for (k, n = R), expand for (k = R, n = the widest slice). If fully sharded, a column-parallel layer gathers
the shares of the rank before it expands. A row-parallel layer sums them and expands to its share of the output.

Whether expand adds to its output decides which file is looked up (``…_EXPAND_TRUE.json`` or ``…_EXPAND_FALSE.json``).
On one stream it always adds. On two streams, expand of the first three runs beside the base layer, into zeros. Two
cases add nevertheless: fully sharded layers, and merged layers of which each rank holds all and which have a forward of
their own.
"""

from dataclasses import dataclass

from bo_tune.engines.models.architectures.modules import Kind, Module
from bo_tune.errors import ModelError

_SPREAD = frozenset({Kind.COLUMN, Kind.MERGED, Kind.QKV, Kind.ROW})
"""Kinds whose base layer and adapters run side by side on two streams."""


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """One layer that takes adapters, on one tensor-parallel rank.

    Attributes:
        name: the module's name as in tables. For a part of ``mlp``, it is the name below it:
            ``shared_expert.down_proj``.
        shrink_k: input width of the layer, in elements; None if A is a table of rows, so that there is no shrink.
        slice_sizes: output widths of its fused slices, in elements.
        shrink_shards: number of tensor-parallel ranks that share the rank of shrink.
        per_sequence: whether it runs once per sequence of a step, rather than per token.
        dual_stream_adds: whether its expand adds to its output in an engine of two streams; both values if it depends
            on how the engine was started.
    """

    name: str
    shrink_k: int | None
    slice_sizes: tuple[int, ...]
    shrink_shards: int = 1
    per_sequence: bool = False
    dual_stream_adds: tuple[bool, ...] = (True,)

    def adds(self, *, dual_stream: bool) -> tuple[bool, ...]:
        """Return whether its expand adds to its output in an engine of one or two streams."""
        return self.dual_stream_adds if dual_stream else (True,)

    def shrink_n(self, rank: int) -> int:
        """Return the part of the rank to which one tensor-parallel rank shrinks.

        Raises:
            ModelError: the rank is not divisible.
        """
        if rank % self.shrink_shards:
            raise ModelError(
                f"fully sharded adapters: expected a rank that is a multiple of the tensor-parallel size "
                f"{self.shrink_shards}, got {rank}"
            )
        return rank // self.shrink_shards


@dataclass(frozen=True, slots=True)
class Sharding:
    """How layers are sharded over ``tensor_parallel`` ranks, with or without ``--fully-sharded-loras``."""

    tensor_parallel: int = 1
    fully_sharded: bool = False

    def layer(self, module: Module) -> LoraLayer:
        """Return a module's layer on one rank. Raises ModelError if it cannot be sharded like this."""
        self.check(module)
        shares = self._shares(module)
        return LoraLayer(
            module.label,
            module.inputs // (self.tensor_parallel if module.kind is Kind.ROW else 1) or None,
            self._outputs(module),
            shrink_shards=self.tensor_parallel if shares and module.kind is not Kind.ROW else 1,
            per_sequence=module.kind is Kind.HEAD,
            dual_stream_adds=self._adds(module),
        )

    def _shares(self, module: Module) -> bool:
        """Whether ranks share the adapters of a module, too."""
        return self.fully_sharded and module.kind in _SPREAD and not module.replicated

    def _outputs(self, module: Module) -> tuple[int, ...]:
        p = self.tensor_parallel
        if module.kind is Kind.ROW:
            return tuple(size // p if self.fully_sharded else size for size in module.outputs)
        if module.replicated or module.kind not in _SPREAD:
            return module.outputs
        if module.kind is Kind.QKV:
            query, *others = module.outputs
            sizes = (query // p, *(size // min(p, module.kv_heads) for size in others))
        else:
            sizes = tuple(size // p for size in module.outputs)
        return sizes if module.slices > 1 else (sum(sizes),)

    def _adds(self, module: Module) -> tuple[bool, ...]:
        if module.kind not in _SPREAD or module.own_forward:
            return (True,)
        if not self.fully_sharded:
            return (False,)
        alone = self.tensor_parallel == 1 or module.replicated
        if alone and module.kind is Kind.MERGED and len(module.parts) == 2:
            # It gets the class that is not sharded. vLLM turns the second stream off together with fully sharded
            # adapters, but not in engine processes that are spawned.
            return (True, False)
        return (True,)

    def check(self, module: Module) -> None:
        """Refuse a module that cannot be sharded like this. Raises ModelError."""
        p = self.tensor_parallel
        fields = module.multiples
        if self.fully_sharded and module.kind is Kind.ROW:
            fields = (*fields, ("hidden_size", module.outputs[0]))
        for field, value in fields:
            if value % p:
                raise ModelError(f"{field}: expected a multiple of the tensor-parallel size {p}, got {value}")
        heads = module.kv_heads
        if heads >= p and heads % p:
            raise ModelError(f"num_key_value_heads: expected a multiple of the tensor-parallel size {p}, got {heads}")
        if 0 < heads < p and p % heads:
            raise ModelError(
                f"num_key_value_heads: expected a divisor or a multiple of the tensor-parallel size {p}, got {heads}"
            )
