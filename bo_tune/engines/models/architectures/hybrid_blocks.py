"""Parts of models that mix attention with recurrent layers: Qwen3.5's gated delta nets, Nemotron-H's Mamba layers."""

from collections.abc import Iterable

from bo_tune.engines.models.architectures.blocks import attention
from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.modules import LAYER_INDEX, Kind, Module
from bo_tune.errors import ModelError
from bo_tune.files import shown

PATTERN = "hybrid_override_pattern"
"""Field of Nemotron-H that names the kind of each layer by a letter."""

MAMBA, DENSE, ATTENTION, MIXTURE = "M", "-", "*", "E"

_UNPACKED_BA = frozenset({"awq", "auto_awq", "gptq", "gptq_marlin", "awq_marlin", "auto-round", "inc"})
"""Quantizations for which vLLM keeps all of ``in_proj_ba`` on each rank."""


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
    """Return the letters of the kinds of layers that a Nemotron-H has. Raises ModelError."""
    pattern = fields.values.get(PATTERN)
    if not isinstance(pattern, str) or not pattern or set(pattern) - {MAMBA, DENSE, ATTENTION, MIXTURE}:
        raise ModelError(
            f"{fields.source}: {PATTERN}: expected a text of {MAMBA}, {DENSE}, {ATTENTION} and {MIXTURE}, "
            f"got {shown(pattern)}"
        )
    return frozenset(pattern)


def nemotron_h(fields: Fields) -> Iterable[Module]:
    """Yield the layers of a Nemotron-H: Mamba, attention, MLPs and what is around experts."""
    kinds = layer_kinds(fields)
    if MAMBA in kinds:
        yield from _mamba(fields)
    if ATTENTION in kinds:
        yield from attention("mixer")(fields)
    if DENSE in kinds:
        yield from _ungated("mixer", fields, fields.size("intermediate_size"), "intermediate_size")
    if MIXTURE in kinds:
        yield from _around_experts(fields)


def _mamba(fields: Fields) -> Iterable[Module]:
    hidden, heads = fields.size("hidden_size"), fields.size("mamba_num_heads")
    groups, kernel = fields.size("n_groups"), fields.size("conv_kernel")
    wide, state = heads * fields.size("mamba_head_dim"), groups * fields.size("ssm_state_size")
    multiples = (("mamba_num_heads", heads), ("n_groups", groups))
    above = f"{LAYER_INDEX}mixer"
    yield Module(f"{above}.conv1d", Kind.MERGED, kernel, (wide, state, state), called=False, multiples=multiples)
    yield Module(f"{above}.in_proj", Kind.MERGED, hidden, (wide, wide, state, state, heads), multiples=multiples)
    yield Module(f"{above}.out_proj", Kind.ROW, wide, (hidden,), multiples=multiples)


def _ungated(parent: str, fields: Fields, wide: int, field: str) -> Iterable[Module]:
    hidden, multiples = fields.size("hidden_size"), ((field, wide),)
    above = f"{LAYER_INDEX}{parent}"
    yield Module(f"{above}.up_proj", Kind.COLUMN, hidden, (wide,), multiples=multiples)
    yield Module(f"{above}.down_proj", Kind.ROW, wide, (hidden,), multiples=multiples)


def _around_experts(fields: Fields) -> Iterable[Module]:
    """Yield shared experts and the projections to the experts' space. The gate of ungated experts is not wrapped."""
    hidden = fields.size("hidden_size")
    shared = fields.size("n_shared_experts", default=0, least=0)
    if shared:
        field = "moe_shared_expert_intermediate_size"
        yield from _ungated("mixer.shared_experts", fields, shared * fields.size(field), field)
    if not fields.missing("moe_latent_size"):
        latent = fields.size("moe_latent_size")
        yield Module(f"{LAYER_INDEX}mixer.fc1_latent_proj", Kind.REPLICATED, hidden, (latent,))
        yield Module(f"{LAYER_INDEX}mixer.fc2_latent_proj", Kind.REPLICATED, latent, (hidden,))
