"""Parts of models that mix attention with other layers: gated delta nets, Mamba, short convolutions."""

from collections.abc import Iterable
from dataclasses import replace

from bo_tune.engines.models.architectures.blocks import (
    Block,
    attention,
    gated,
    gated_mlp,
    plain_mlp,
    router,
    within,
)
from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.modules import LAYER_INDEX, Kind, Module
from bo_tune.errors import ModelError
from bo_tune.files import shown

PATTERN = "hybrid_override_pattern"
"""Field of Nemotron-H that gives the kind of each layer by a letter."""

MAMBA, DENSE, ATTENTION, MIXTURE = "M", "-", "*", "E"

_UNPACKED_BA = frozenset({"awq", "auto_awq", "gptq", "gptq_marlin", "awq_marlin", "auto-round", "inc"})
"""Quantizations for which vLLM keeps all of ``in_proj_ba`` on each rank."""


def interleaved_delta_net(fields: Fields) -> Iterable[Module]:
    """Yield Qwen3-Next's linear attention: that of Qwen3.5, with each projection in one piece."""
    for module in gated_delta_net(fields):
        if module.suffix.startswith("in_proj"):
            yield replace(module, outputs=(sum(module.outputs),), parts=(module.suffix,), replicated=False)
        else:
            yield module


def gated_delta_net(fields: Fields) -> Iterable[Module]:
    """Yield Qwen3.5's linear attention."""
    hidden, kernel = fields.size("hidden_size"), fields.size("linear_conv_kernel_dim")
    key_heads, value_heads = fields.size("linear_num_key_heads"), fields.size("linear_num_value_heads")
    key, value = key_heads * fields.size("linear_key_head_dim"), value_heads * fields.size("linear_value_head_dim")
    multiples = (("linear_num_key_heads", key_heads), ("linear_num_value_heads", value_heads))
    above = f"{LAYER_INDEX}linear_attn"
    yield Module(f"{above}.conv1d", Kind.COLUMN, kernel, (2 * key + value,), called=False, multiples=multiples)
    yield Module(
        f"{above}.in_proj_qkvz",
        Kind.MERGED,
        hidden,
        (key, key, value, value),
        ("in_proj_qkv", "in_proj_z"),
        multiples=multiples,
    )
    yield Module(
        f"{above}.in_proj_ba",
        Kind.MERGED,
        hidden,
        (value_heads, value_heads),
        ("in_proj_b", "in_proj_a"),
        replicated=fields.quantization in _UNPACKED_BA,
        multiples=multiples,
    )
    yield Module(f"{above}.out_proj", Kind.ROW, value, (hidden,), multiples=multiples)


def layer_kinds(fields: Fields) -> frozenset[str]:
    """Return the letters of a Nemotron-H's kinds of layers. Raises ModelError."""
    pattern = fields.values.get(PATTERN)
    if not isinstance(pattern, str) or not pattern or set(pattern) - {MAMBA, DENSE, ATTENTION, MIXTURE}:
        raise ModelError(
            f"{fields.source}: {PATTERN}: expected a text of {MAMBA}, {DENSE}, {ATTENTION} and {MIXTURE}, "
            f"got {shown(pattern)}"
        )
    return frozenset(pattern)


def nemotron_h(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Nemotron-H: Mamba, attention, MLPs, and the layers around experts."""
    kinds = layer_kinds(fields)
    if MAMBA in kinds:
        yield from _mamba(fields)
    if ATTENTION in kinds:
        yield from attention("mixer")(fields)
    if DENSE in kinds:
        yield from plain_mlp("mixer")(fields)
    if MIXTURE in kinds:
        yield from _around_experts(fields)


def _mamba(fields: Fields) -> Iterable[Module]:
    heads = fields.size("mamba_num_heads")
    wide, state = heads * fields.size("mamba_head_dim"), fields.size("ssm_state_size")
    return mamba_2(within("mixer"), fields, "conv_kernel", wide, ("mamba_num_heads", heads), ("n_groups", state))


def mamba_2(
    above: str,
    fields: Fields,
    kernel: str,
    wide: int,
    heads: tuple[str, int],
    groups: tuple[str, int],
    *,
    known_as: str | None = None,
) -> Iterable[Module]:
    """Yield a Mamba-2 layer.

    Every rank holds a single group of states. If there are several ranks, vLLM then builds the projection as one.

    Args:
        above: prefix of the paths of its modules.
        kernel: field of the convolution's width.
        wide: inner width, in elements.
        heads: field of the number of heads, and that number.
        groups: field of the number of groups, and the states of one.
        known_as: the parent in adapters' names.
    """
    hidden, (field, states) = fields.size("hidden_size"), groups
    count = fields.size(field)
    state, alone = count * states, count == 1
    multiples = (heads,) if alone else (heads, (field, count))
    convolved, projected = (wide, state, state), (wide, wide, state, state, heads[1])
    conv = Module(f"{above}conv1d", Kind.MERGED, fields.size(kernel), convolved, called=False, multiples=multiples)
    yield replace(conv, repeated=(1, 2) if alone else (), known_as=known_as)
    in_proj = Module(f"{above}in_proj", Kind.MERGED, hidden, projected, multiples=multiples)
    yield replace(in_proj, repeated=(2, 3) if alone else (), known_as=known_as)
    yield Module(f"{above}out_proj", Kind.ROW, wide, (hidden,), multiples=multiples, known_as=known_as)


def falcon_h1_mamba(fields: Fields) -> Iterable[Module]:
    """Yield the Mamba-2 half of Falcon-H1's layers."""
    heads = fields.size("mamba_n_heads")
    expanded = fields.product("mamba_expand", "hidden_size") if fields.missing("mamba_d_ssm") else 0
    wide = expanded or fields.size("mamba_d_ssm")
    groups = ("mamba_n_groups", fields.size("mamba_d_state"))
    other = f"{LAYER_INDEX}mamba"
    return mamba_2(
        within("mamba.mamba"), fields, "mamba_d_conv", wide, ("mamba_n_heads", heads), groups, known_as=other
    )


def granite_hybrid(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Granite 4: Mamba-2, attention, a router before experts, and a shared expert."""
    kinds = fields.layer_types()  # newer versions of transformers name these like those of other models
    if kinds & {"mamba", "linear_attention"}:
        wide, groups = fields.product("mamba_expand", "hidden_size"), ("mamba_n_groups", fields.size("mamba_d_state"))
        heads = ("mamba_n_heads", fields.size("mamba_n_heads"))
        yield from mamba_2(within("mamba"), fields, "mamba_d_conv", wide, heads, groups)
    if kinds & {"attention", "full_attention"}:
        yield from attention(head_dim=False)(fields)
    if fields.size("num_local_experts", default=0, least=0):
        yield from router("block_sparse_moe.gate", "num_local_experts")(fields)
    if fields.size("shared_intermediate_size", default=0, least=0):
        names = ("input_linear", "output_linear")
        yield from gated_mlp("shared_mlp", "shared_intermediate_size", fused=True, names=names)(fields)


def jamba(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Jamba: Mamba-1 and attention, MLPs and a router before experts."""
    attention_every, experts_every = (fields.size(f"{kind}_layer_period") for kind in ("attn", "expert"))
    if attention_every > 1:
        yield from _mamba_1(fields)
    yield from attention("", head_dim=False, known_as="self_attn")(fields)
    mixture = fields.size("num_experts", default=1) > 1
    if experts_every > 1 or not mixture:
        yield from gated_mlp("feed_forward")(fields)
    if mixture:
        yield from router("feed_forward.router", "num_experts")(fields)


def _mamba_1(fields: Fields) -> Iterable[Module]:
    hidden, wide = fields.size("hidden_size"), fields.product("mamba_expand", "hidden_size")
    automatic = fields.values.get("mamba_dt_rank") in (None, "auto")
    steps = -(-hidden // 16) if automatic else fields.size("mamba_dt_rank")
    states, multiples, above = fields.size("mamba_d_state"), (("mamba_expand * hidden_size", wide),), within("mamba")
    kernel = fields.size("mamba_d_conv")
    yield Module(f"{above}conv1d", Kind.COLUMN, kernel, (wide,), called=False, multiples=multiples)
    yield Module(f"{above}in_proj", Kind.MERGED, hidden, (wide, wide), ("in_proj",), multiples=multiples)
    yield Module(f"{above}x_proj", Kind.ROW, wide, (steps + 2 * states,), multiples=multiples)
    yield Module(f"{above}dt_proj", Kind.COLUMN, steps, (wide,), multiples=multiples)
    yield Module(f"{above}out_proj", Kind.ROW, wide, (hidden,), multiples=multiples)


def short_convolutions(width: str) -> Block:
    """Return the layers of an LFM2 except its MLPs: short convolutions and attention. ``width`` is a field."""

    def block(fields: Fields) -> Iterable[Module]:
        kinds = fields.layer_types()
        if "conv" in kinds:
            wide, kernel = fields.size(width), fields.size("conv_L_cache")
            above, other, multiples = within("short_conv"), f"{LAYER_INDEX}conv", ((width, wide),)
            conv = Module(f"{above}conv", Kind.COLUMN, kernel, (wide,), called=False, multiples=multiples)
            yield replace(conv, known_as=other)
            in_proj = Module(f"{above}in_proj", Kind.MERGED, wide, (wide,) * 3, ("in_proj",), multiples=multiples)
            yield replace(in_proj, known_as=other)
            yield Module(f"{above}out_proj", Kind.ROW, wide, (wide,), multiples=multiples, known_as=other)
        if "full_attention" in kinds:
            yield from attention(head_dim=False, names=("qkv_proj", "out_proj"))(fields)

    return block


LFM2_NAMES, LFM2_PARTS = ("w13", "w2"), ("w1", "w3")


def lfm2_mlp(fields: Fields) -> Iterable[Module]:
    """Yield the MLP of a dense LFM2. The config may ask to adjust its width."""
    field = "intermediate_size" if fields.missing("block_ff_dim") else "block_ff_dim"
    wide = fields.size(field)
    if fields.values.get("block_auto_adjust_ff_dim", True):
        multiple, factor = fields.size("block_multiple_of", default=256), fields.values.get("block_ffn_dim_multiplier")
        wide = 2 * wide // 3
        wide = int(factor * wide) if isinstance(factor, int | float) else wide
        wide = -(-wide // multiple) * multiple
    return gated(within("feed_forward"), fields.size("hidden_size"), wide, field, names=LFM2_NAMES, parts=LFM2_PARTS)


def lfm2_moe_mlps(fields: Fields) -> Iterable[Module]:
    """Yield the dense MLPs of an LFM2 with experts, and its router."""
    if fields.size("num_dense_layers", default=0, least=0):
        yield from gated_mlp("feed_forward", names=LFM2_NAMES, parts=LFM2_PARTS)(fields)
    yield from router("feed_forward.gate", "num_experts")(fields)


def _around_experts(fields: Fields) -> Iterable[Module]:
    """Yield shared experts and the projections to the experts' space. The gate of ungated experts is not wrapped."""
    hidden = fields.size("hidden_size")
    if fields.size("n_shared_experts", default=0, least=0):
        field = "moe_shared_expert_intermediate_size"
        yield from plain_mlp("mixer.shared_experts", field, times="n_shared_experts")(fields)
    if not fields.missing("moe_latent_size"):
        latent = fields.size("moe_latent_size")
        yield Module(f"{LAYER_INDEX}mixer.fc1_latent_proj", Kind.REPLICATED, hidden, (latent,))
        yield Module(f"{LAYER_INDEX}mixer.fc2_latent_proj", Kind.REPLICATED, latent, (hidden,))
