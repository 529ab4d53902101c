"""The parts that models are made of, as modules: attention, MLPs, routers, embeddings.

A block takes the fields of a model's config and returns the modules of that part. ``architectures`` puts them together.
"""

from collections.abc import Callable, Iterable

from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.modules import LAYER_INDEX, Kind, Module
from bo_tune.errors import ModelError

Block = Callable[[Fields], Iterable[Module]]
"""Part of a model: from the fields of a config to modules."""

LM_HEAD = "lm_head"
EMBED_TOKENS = "embed_tokens"

QKV_PARTS = ("q_proj", "k_proj", "v_proj")
GATE_UP_PARTS = ("gate_proj", "up_proj")


def head_dim_of(fields: Fields, *, from_field: bool = True) -> int:
    """Return the width of an attention head.

    Args:
        from_field: whether ``head_dim`` counts where it is there; some models ignore it.

    Raises:
        ModelError: a field is missing, or hidden size and heads do not tell.
    """
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    if from_field and not fields.missing("head_dim"):
        return fields.size("head_dim")
    if hidden % heads:
        what = "head_dim is missing and " if from_field else ""
        raise ModelError(f"{fields.source}: {what}hidden_size {hidden} is no multiple of {heads} heads")
    return hidden // heads


def attention(
    parent: str = "self_attn",
    *,
    fused: bool = False,
    head_dim: bool = True,
    gated: bool = False,
    known_as: str | None = None,
) -> Block:
    """Return attention with one projection of queries, keys and values.

    Args:
        fused: whether the checkpoint itself holds them as one: one slice of the sum.
        head_dim: whether the field of this name counts.
        gated: whether queries come with a gate of the same width.
        known_as: parent that adapters know it under.
    """

    def block(fields: Fields) -> Iterable[Module]:
        hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
        kv_heads, width = fields.size("num_key_value_heads", default=heads), head_dim_of(fields, from_field=head_dim)
        parts = ("qkv_proj",) if fused else QKV_PARTS
        multiples = (("num_attention_heads", heads),)
        above = f"{LAYER_INDEX}{parent}"
        other = None if known_as is None else f"{LAYER_INDEX}{known_as}"
        outputs = (heads * width * (2 if gated else 1), kv_heads * width, kv_heads * width)
        yield Module(
            f"{above}.qkv_proj", Kind.QKV, hidden, outputs, parts, kv_heads, multiples=multiples, known_as=other
        )
        yield Module(f"{above}.o_proj", Kind.ROW, heads * width, (hidden,), multiples=multiples, known_as=other)

    return block


def gated_mlp(
    parent: str = "mlp", size: str = "intermediate_size", *, times: str | None = None, fused: bool = False
) -> Block:
    """Return an MLP whose gate and up projections are one layer.

    Args:
        size: field of its intermediate size.
        times: field that multiplies it.
        fused: whether the checkpoint itself holds gate and up as one.
    """

    def block(fields: Fields) -> Iterable[Module]:
        wide = fields.product(size, times) if times else fields.size(size)
        return gated(parent, fields.size("hidden_size"), wide, size, fused=fused)

    return block


def gated(parent: str, hidden: int, wide: int, field: str, *, fused: bool = False) -> Iterable[Module]:
    """Yield the modules of a gated MLP. ``field`` is the one that its intermediate size comes from."""
    parts = ("gate_up_proj",) if fused else GATE_UP_PARTS
    multiples = ((field, wide),)
    above = f"{LAYER_INDEX}{parent}"
    yield Module(f"{above}.gate_up_proj", Kind.MERGED, hidden, (wide, wide), parts, multiples=multiples)
    yield Module(f"{above}.down_proj", Kind.ROW, wide, (hidden,), multiples=multiples)


def router(path: str, *counts: str) -> Block:
    """Return the module that chooses experts; ``counts`` are fields that may hold how many there are."""

    def block(fields: Fields) -> Iterable[Module]:
        yield Module(f"{LAYER_INDEX}{path}", Kind.REPLICATED, fields.size("hidden_size"), (fields.first_size(counts),))

    return block


def qwen_moe_mlps(*, shared: bool, packs_shared: bool) -> Block:
    """Return the dense MLPs of Qwen's mixtures of experts: those of layers without experts, and the shared expert.

    vLLM packs gate and up only if it is told of dense layers (``mlp_only_layers``), or, where ``packs_shared``, of a
    shared expert. Unpacked they cannot be wrapped.

    Args:
        shared: whether the config may have a shared expert.
    """

    def block(fields: Fields) -> Iterable[Module]:
        hidden = fields.size("hidden_size")
        every = fields.size("decoder_sparse_step", default=1)
        expert = fields.size("shared_expert_intermediate_size", default=0, least=0) if shared else 0
        packs = bool(fields.values.get("mlp_only_layers")) or (expert > 0 and packs_shared)
        found: list[Module] = []
        if fields.values.get("mlp_only_layers") or every > 1:
            found += gated("mlp", hidden, fields.size("intermediate_size"), "intermediate_size")
        if expert:
            found += gated("mlp.shared_expert", hidden, expert, "shared_expert_intermediate_size")
            path = f"{LAYER_INDEX}mlp.shared_expert_gate"
            found.append(Module(path, Kind.REPLICATED, hidden, (1,), called=False))
        return [module for module in found if packs or module.suffix != "gate_up_proj"]

    return block


def latent_attention(fields: Fields) -> Iterable[Module]:
    """Yield DeepSeek's multi-head latent attention. Queries have a latent space of their own, or none."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    latent, rope = fields.size("kv_lora_rank"), fields.size("qk_rope_head_dim")
    nope, value = fields.size("qk_nope_head_dim"), fields.size("v_head_dim")
    multiples = (("num_attention_heads", heads),)
    above = f"{LAYER_INDEX}self_attn"
    query = heads * (nope + rope)
    if fields.missing("q_lora_rank"):
        yield Module(f"{above}.q_proj", Kind.COLUMN, hidden, (query,), multiples=multiples)
        yield Module(f"{above}.kv_a_proj_with_mqa", Kind.REPLICATED, hidden, (latent + rope,))
    else:
        rank = fields.size("q_lora_rank")
        yield Module(
            f"{above}.fused_qkv_a_proj",
            Kind.MERGED,
            hidden,
            (rank, latent + rope),
            ("q_a_proj", "kv_a_proj_with_mqa"),
            replicated=True,
            own_forward=True,
        )
        yield Module(f"{above}.q_b_proj", Kind.COLUMN, rank, (query,), multiples=multiples)
    yield Module(f"{above}.kv_b_proj", Kind.COLUMN, latent, (heads * (nope + value),), multiples=multiples)
    yield Module(f"{above}.o_proj", Kind.ROW, heads * value, (hidden,), multiples=multiples)


def deepseek_mlps(fields: Fields) -> Iterable[Module]:
    """Yield DeepSeek's dense MLPs: of the first layers and of those between layers with experts, and shared experts."""
    if fields.missing("n_routed_experts"):
        yield from gated_mlp()(fields)
        return
    first = fields.size("first_k_dense_replace", default=0, least=0)
    if first or fields.size("moe_layer_freq", default=1) > 1:
        yield from gated_mlp()(fields)
    yield from router("mlp.gate", "n_routed_experts")(fields)
    if not fields.missing("n_shared_experts"):
        yield from gated_mlp("mlp.shared_experts", "moe_intermediate_size", times="n_shared_experts")(fields)
