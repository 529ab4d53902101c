"""Parts of models whose layers are of several kinds: Gemma 4, Llama 4, Llama 3.2 Vision, Hunyuan, Whisper."""

from collections.abc import Iterable

from bo_tune.engines.models.architectures.blocks import (
    QKV_PARTS,
    attention,
    gated,
    gated_mlp,
    head_dim_of,
    qkv_projection,
    router,
    within,
)
from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.modules import LAYER_INDEX, Kind, Module
from bo_tune.errors import ModelError

GLOBAL_HEAD_DIM = 512
"""Default of ``global_head_dim`` in Gemma 4."""


def gemma_4(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Gemma 4.

    The heads of sliding and full attention have different widths. The last layers may share keys and values with
    earlier ones. Their MLP is then twice as wide.
    """
    hidden, count = fields.size("hidden_size"), fields.size("num_hidden_layers")
    first_shared = count - fields.size("num_kv_shared_layers", default=0, least=0)
    kinds = _kinds(fields, count)
    for kind in dict.fromkeys(kinds):
        where = [index for index, other in enumerate(kinds) if other == kind]
        yield from _gemma_attention(fields, kind, where, first_shared)
    wide, above = fields.size("intermediate_size"), within("mlp")
    yield from gated(above, hidden, wide, "intermediate_size")
    if fields.values.get("use_double_wide_mlp") and first_shared < count:
        yield from gated(above, hidden, 2 * wide, "intermediate_size")
    if not fields.missing("num_experts"):
        yield from router("router.proj", "num_experts")(fields)
    if each := fields.size("hidden_size_per_layer_input", default=0, least=0):
        yield Module(f"{LAYER_INDEX}per_layer_input_gate", Kind.REPLICATED, hidden, (each,))
        yield Module(f"{LAYER_INDEX}per_layer_projection", Kind.REPLICATED, each, (hidden,))
        all_layers = each * count
        multiples = (("hidden_size_per_layer_input * num_hidden_layers", all_layers),)
        yield Module("per_layer_model_projection", Kind.COLUMN, hidden, (all_layers,), multiples=multiples)


def _kinds(fields: Fields, count: int) -> list[str]:
    kinds = sorted(fields.layer_types())  # checks them
    named: list[str] = fields.values["layer_types"]
    if len(named) != count:
        raise ModelError(f"{fields.source}: layer_types: expected {count} of {', '.join(kinds)}, got {len(named)}")
    return named


def _gemma_attention(fields: Fields, kind: str, where: list[int], first_shared: int) -> Iterable[Module]:
    """Yield the attention of the layers of one kind. ``where`` are their numbers."""
    heads, kv_heads, width = (fields.size(f) for f in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    if kind == "full_attention":
        width = fields.size("global_head_dim", default=GLOBAL_HEAD_DIM)
        if fields.values.get("attention_k_eq_v", True):
            kv_heads = fields.size("num_global_key_value_heads", default=kv_heads)
    above, multiples = within("self_attn"), (("num_attention_heads", heads),)
    if where[0] < first_shared:
        yield qkv_projection(f"{above}qkv_proj", fields, heads * width, kv_heads, width)
    if where[-1] >= first_shared:
        query = (heads * width,)
        yield Module(f"{above}q_proj", Kind.COLUMN, fields.size("hidden_size"), query, multiples=multiples)
    yield Module(f"{above}o_proj", Kind.ROW, heads * width, (fields.size("hidden_size"),), multiples=multiples)


def llama_4(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Llama 4. One of every few has experts, and the others have an MLP."""
    yield from attention()(fields)
    every = fields.size("interleave_moe_layer_step", default=1)
    if every > 1:
        yield from gated_mlp("feed_forward", "intermediate_size_mlp")(fields)
    yield from router("feed_forward.router", "num_local_experts")(fields)
    yield from gated_mlp("feed_forward.shared_expert")(fields)


def llama_vision(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Llama 3.2 Vision's text model, with those that look at images."""
    yield from attention()(fields)
    yield from gated_mlp()(fields)
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    width, above = head_dim_of(fields), within("cross_attn")
    keys = fields.size("num_key_value_heads", default=heads) * width
    yield Module(f"{above}q_proj", Kind.REPLICATED, hidden, (heads * width,))
    yield Module(f"{above}merged_proj_6_k_proj_6_v_proj", Kind.MERGED, hidden, (keys, keys), QKV_PARTS[1:])
    yield Module(f"{above}o_proj", Kind.REPLICATED, heads * width, (hidden,))


def hunyuan_shared_expert(fields: Fields) -> Iterable[Module]:
    """Yield Hunyuan's shared expert, which the engine keeps inside its experts."""
    above, other = within("mlp.experts._shared_experts._layer.shared_experts"), f"{LAYER_INDEX}mlp.shared_mlp"
    wide, field = fields.size("intermediate_size"), "intermediate_size"
    return gated(above, fields.size("hidden_size"), wide, field, known_as=other)


def whisper(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Whisper: an encoder of sound, and a decoder that looks at it and writes text."""
    hidden = fields.size("hidden_size")
    for half in ("encoder", "decoder"):
        layer, heads_field, wide_field = f"{half}.{LAYER_INDEX}", f"{half}_attention_heads", f"{half}_ffn_dim"
        heads, wide = fields.size(heads_field), fields.size(wide_field)
        at_heads, at_width = ((heads_field, heads),), ((wide_field, wide),)
        above = within("self_attn", layer)
        outputs, other = (hidden, hidden, hidden), layer.removesuffix(".")
        yield Module(f"{above}qkv_proj", Kind.QKV, hidden, outputs, QKV_PARTS, heads, multiples=at_heads)
        yield Module(f"{above}out_proj", Kind.ROW, hidden, (hidden,), multiples=at_heads)
        above = within("mlp", layer)
        yield Module(f"{above}fc1", Kind.COLUMN, hidden, (wide,), multiples=at_width, known_as=other)
        yield Module(f"{above}fc2", Kind.ROW, wide, (hidden,), multiples=at_width, known_as=other)
        if half == "decoder":
            above = within("encoder_attn", layer)
            yield Module(f"{above}q_proj", Kind.COLUMN, hidden, (hidden,), multiples=at_heads)
            yield Module(f"{above}kv_proj", Kind.MERGED, hidden, (hidden, hidden), QKV_PARTS[1:], multiples=at_heads)
            yield Module(f"{above}out_proj", Kind.ROW, hidden, (hidden,), multiples=at_heads)
