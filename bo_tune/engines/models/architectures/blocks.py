"""The parts of models, as modules: attention, MLPs, routers, embeddings.

A block takes the fields of a model's config and returns the modules of that part. ``architectures`` combines blocks.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.modules import LAYER_INDEX, Kind, Module
from bo_tune.errors import ModelError

Block = Callable[[Fields], Iterable[Module]]
"""A part of a model: a function from the fields of a config to modules."""

LM_HEAD = "lm_head"
EMBED_TOKENS = "embed_tokens"

QKV_PARTS = ("q_proj", "k_proj", "v_proj")
GATE_UP_PARTS = ("gate_proj", "up_proj")


def head_dim_of(fields: Fields, *, from_field: bool = True) -> int:
    """Return the width of an attention head.

    Args:
        from_field: whether ``head_dim`` counts if present. Some models ignore it.

    Raises:
        ModelError: a field is missing, or hidden size and heads do not determine the width.
    """
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if from_field and not fields.missing("head_dim"):
        return fields.size("head_dim")
    if hidden % heads:
        what = "head_dim is missing and " if from_field else ""
        raise ModelError(f"{fields.source}: {what}hidden_size {hidden} is not a multiple of {heads} heads")
    return hidden // heads


def within(parent: str, layer: str = LAYER_INDEX) -> str:
    """Return the prefix of the paths of a layer's part. ``parent`` is empty for the layer itself."""
    return f"{layer}{parent}." if parent else layer


def attention(
    parent: str = "self_attn",
    *,
    fused: bool = False,
    head_dim: bool = True,
    gated: bool = False,
    known_as: str | None = None,
    names: tuple[str, str] = ("qkv_proj", "o_proj"),
    layer: str = LAYER_INDEX,
) -> Block:
    """Return attention with one projection of queries, keys and values.

    Args:
        fused: whether the checkpoint itself holds them as one, so that there is one slice of the sum.
        head_dim: whether the field of this name counts.
        gated: whether queries come with a gate of the same width.
        known_as: the parent in adapters' names.
        names: names of the two projections.
        layer: prefix of the paths of a layer.
    """

    def block(fields: Fields) -> Iterable[Module]:
        heads = fields.size("num_attention_heads")
        kv_heads, width = fields.size("num_key_value_heads", default=heads), head_dim_of(fields, from_field=head_dim)
        query = heads * width * (2 if gated else 1)
        above, parts = within(parent, layer), (names[0],) if fused else QKV_PARTS
        other = None if known_as is None else f"{layer}{known_as}"
        qkv = qkv_projection(above + names[0], fields, query, kv_heads, width, parts)
        yield qkv if other is None else replace(qkv, known_as=other)
        multiples = (("num_attention_heads", heads),)
        wide, hidden = heads * width, fields.size("hidden_size")
        yield Module(above + names[1], Kind.ROW, wide, (hidden,), multiples=multiples, known_as=other)

    return block


def qkv_projection(
    path: str, fields: Fields, query: int, kv_heads: int, width: int, parts: tuple[str, ...] = QKV_PARTS
) -> Module:
    """Return one projection of queries, keys and values.

    Args:
        query: output width of the queries, in elements.
        width: width of a head of keys or values.
    """
    outputs = (query, kv_heads * width, kv_heads * width)
    multiples = (("num_attention_heads", fields.size("num_attention_heads")),)
    return Module(path, Kind.QKV, fields.size("hidden_size"), outputs, parts, kv_heads, multiples=multiples)


def gated_mlp(
    parent: str = "mlp",
    size: str = "intermediate_size",
    *,
    times: str | None = None,
    fused: bool = False,
    names: tuple[str, str] = ("gate_up_proj", "down_proj"),
    parts: tuple[str, ...] = GATE_UP_PARTS,
    layer: str = LAYER_INDEX,
) -> Block:
    """Return an MLP whose gate and up projections are one layer.

    Args:
        size: field of its intermediate size.
        times: field that multiplies it.
        fused: whether the checkpoint itself holds gate and up as one.
        names: names of the engine's two projections.
        parts: names of gate and up.
        layer: prefix of the paths of a layer.
    """

    def block(fields: Fields) -> Iterable[Module]:
        wide = fields.product(size, times) if times else fields.size(size)
        held = (names[0],) if fused else parts
        return gated(within(parent, layer), fields.size("hidden_size"), wide, size, names=names, parts=held)

    return block


def gated(
    above: str,
    hidden: int,
    wide: int,
    field: str,
    *,
    names: tuple[str, str] = ("gate_up_proj", "down_proj"),
    parts: tuple[str, ...] = GATE_UP_PARTS,
    known_as: str | None = None,
) -> Iterable[Module]:
    """Yield the modules of a gated MLP.

    Args:
        above: prefix of their paths.
        field: the field that gives the intermediate size.
    """
    multiples = ((field, wide),)
    up, down = above + names[0], above + names[1]
    yield Module(up, Kind.MERGED, hidden, (wide, wide), parts, multiples=multiples, known_as=known_as)
    yield Module(down, Kind.ROW, wide, (hidden,), multiples=multiples, known_as=known_as)


def plain_mlp(
    parent: str = "mlp",
    size: str = "intermediate_size",
    *,
    times: str | None = None,
    names: tuple[str, str] = ("up_proj", "down_proj"),
    layer: str = LAYER_INDEX,
    known_as: str | None = None,
) -> Block:
    """Return an MLP without a gate. The arguments are those of ``gated_mlp``."""

    def block(fields: Fields) -> Iterable[Module]:
        hidden, wide = fields.size("hidden_size"), fields.product(size, times) if times else fields.size(size)
        multiples, above = ((size, wide),), within(parent, layer)
        yield Module(above + names[0], Kind.COLUMN, hidden, (wide,), multiples=multiples, known_as=known_as)
        yield Module(above + names[1], Kind.ROW, wide, (hidden,), multiples=multiples, known_as=known_as)

    return block


def router(path: str, *counts: str) -> Block:
    """Return the module that chooses experts. ``counts`` are fields that may hold the number of experts."""

    def block(fields: Fields) -> Iterable[Module]:
        yield Module(f"{LAYER_INDEX}{path}", Kind.REPLICATED, fields.size("hidden_size"), (fields.first_size(counts),))

    return block


def qwen_moe_mlps(*, shared: bool, packs_shared: bool, packs: bool = False) -> Block:
    """Return the dense MLPs of Qwen's mixtures of experts: those of layers without experts, and the shared expert.

    vLLM packs gate and up only if the config has dense layers (``mlp_only_layers``), or, with ``packs_shared``, a
    shared expert. If they are not packed, they cannot be wrapped.

    Args:
        shared: whether the config may have a shared expert.
        packs: whether vLLM packs them in any case.
    """

    def block(fields: Fields) -> Iterable[Module]:
        hidden = fields.size("hidden_size")
        every = fields.size("decoder_sparse_step", default=1)
        expert = fields.size("shared_expert_intermediate_size", default=0, least=0) if shared else 0
        packed = packs or bool(fields.values.get("mlp_only_layers")) or (expert > 0 and packs_shared)
        found: list[Module] = []
        if fields.values.get("mlp_only_layers") or every > 1:
            found += gated(within("mlp"), hidden, fields.size("intermediate_size"), "intermediate_size")
        if expert:
            found += gated(within("mlp.shared_expert"), hidden, expert, "shared_expert_intermediate_size")
            path = f"{LAYER_INDEX}mlp.shared_expert_gate"
            found.append(Module(path, Kind.REPLICATED, hidden, (1,), called=False))
        return [module for module in found if packed or module.suffix != "gate_up_proj"]

    return block


def latent_attention(fields: Fields) -> Iterable[Module]:
    """Yield DeepSeek's multi-head latent attention. Queries may have a latent space of their own."""
    hidden, heads, latent, head = _latent_sizes(fields)
    above, multiples = within("self_attn"), (("num_attention_heads", heads),)
    if fields.missing("q_lora_rank"):
        yield Module(f"{above}q_proj", Kind.COLUMN, hidden, (heads * head.key,), multiples=multiples)
        yield Module(f"{above}kv_a_proj_with_mqa", Kind.REPLICATED, hidden, (latent + head.rope,))
    else:
        rank = fields.size("q_lora_rank")
        yield _fused_latent(above, hidden, (rank, latent + head.rope))
        yield Module(f"{above}q_b_proj", Kind.COLUMN, rank, (heads * head.key,), multiples=multiples)
    out = heads * (head.nope + head.value)
    yield Module(f"{above}kv_b_proj", Kind.COLUMN, latent, (out,), multiples=multiples)
    yield Module(f"{above}o_proj", Kind.ROW, heads * head.value, (hidden,), multiples=multiples)


def sparse_latent_attention(fields: Fields) -> Iterable[Module]:
    """Yield DeepSeek-V3.2's attention: latent, over the tokens that an indexer names. It has no module kv_b_proj."""
    hidden, heads, latent, head = _latent_sizes(fields)
    above, multiples, rank = within("self_attn"), (("num_attention_heads", heads),), fields.size("q_lora_rank")
    yield _fused_latent(above, hidden, (rank, latent + head.rope))
    yield Module(f"{above}q_b_proj", Kind.COLUMN, rank, (heads * head.key,), multiples=multiples)
    yield Module(f"{above}indexer.wq_b", Kind.REPLICATED, rank, (fields.product("index_n_heads", "index_head_dim"),))
    yield Module(f"{above}o_proj", Kind.ROW, heads * head.value, (hidden,), multiples=multiples)


def unfused_latent_attention(fields: Fields) -> Iterable[Module]:
    """Yield MiniCPM3's latent attention, whose projections stay apart."""
    hidden, heads, latent, head = _latent_sizes(fields)
    above, multiples, rank = within("self_attn"), (("num_attention_heads", heads),), fields.size("q_lora_rank")
    yield Module(f"{above}q_a_proj", Kind.REPLICATED, hidden, (rank,))
    yield Module(f"{above}q_b_proj", Kind.COLUMN, rank, (heads * head.key,), multiples=multiples)
    yield Module(f"{above}kv_a_proj_with_mqa", Kind.REPLICATED, hidden, (latent + head.rope,))
    out = heads * (head.nope + head.value)
    yield Module(f"{above}kv_b_proj", Kind.COLUMN, latent, (out,), multiples=multiples)
    yield Module(f"{above}o_proj", Kind.ROW, heads * head.value, (hidden,), multiples=multiples)


class _LatentHead(NamedTuple):
    """Widths of one head, in elements: of keys with and without positions, and of values."""

    rope: int
    nope: int
    value: int

    @property
    def key(self) -> int:
        return self.nope + self.rope


def _latent_sizes(fields: Fields) -> tuple[int, int, int, _LatentHead]:
    """Return hidden size, heads, width of the latent space, and widths of a head."""
    head = _LatentHead(fields.size("qk_rope_head_dim"), fields.size("qk_nope_head_dim"), fields.size("v_head_dim"))
    return fields.size("hidden_size"), fields.size("num_attention_heads"), fields.size("kv_lora_rank"), head


def _fused_latent(above: str, hidden: int, outputs: tuple[int, int]) -> Module:
    """Return the projection to both latent spaces. Each rank holds it whole."""
    parts = ("q_a_proj", "kv_a_proj_with_mqa")
    path = f"{above}fused_qkv_a_proj"
    return Module(path, Kind.MERGED, hidden, outputs, parts, replicated=True, own_forward=True)


def deepseek_mlps(fields: Fields) -> Iterable[Module]:
    """Yield DeepSeek's dense MLPs: shared experts, and MLPs of layers without experts (first, or in between)."""
    if fields.missing("n_routed_experts"):
        yield from gated_mlp()(fields)
        return
    first = fields.size("first_k_dense_replace", default=0, least=0)
    if first or fields.size("moe_layer_freq", default=1) > 1:
        yield from gated_mlp()(fields)
    yield from router("mlp.gate", "n_routed_experts")(fields)
    if not fields.missing("n_shared_experts"):
        yield from gated_mlp("mlp.shared_experts", "moe_intermediate_size", times="n_shared_experts")(fields)
