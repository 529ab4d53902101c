"""What vLLM makes of each entry of ``architectures`` in a model's config, as far as adapters see it.

Read from vLLM 0.33.0, one file of ``model_executor/models`` a family: ``packed_modules_mapping`` says which projections
are one layer, ``embedding_modules`` whether embeddings take adapters without being asked to, ``is_3d_moe_weight``
whether gate and up of experts are one tensor to it, and the registry which class serves an architecture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bo_tune.engines.models.architectures.blocks import (
    EMBED_TOKENS,
    LM_HEAD,
    Block,
    attention,
    deepseek_mlps,
    gated_mlp,
    latent_attention,
    qwen_moe_mlps,
    router,
)
from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.hybrid_blocks import MIXTURE, gated_delta_net, layer_kinds, nemotron_h
from bo_tune.engines.models.architectures.modules import Naming
from bo_tune.engines.models.architectures.moe import MoeShape, Routed, routed_experts
from bo_tune.errors import ModelError
from bo_tune.files import shown


@dataclass(frozen=True, slots=True)
class Architecture:
    """How vLLM builds the models of one architecture.

    Attributes:
        blocks: the parts of its decoder layers.
        embeddings: which of embedding and lm_head take adapters unless target modules say otherwise.
        embedding: name of the input embedding's module.
        head: whether there is an lm_head of its own, which target modules may name.
        experts: how its experts are read; None for dense models.
        defaults: fields that a config may leave out, with what ``transformers`` takes for them.
        naming: what full names of its modules begin with.
        inner: of a model around a language model: the architecture of that, by its ``model_type``; "" for any.
    """

    blocks: tuple[Block, ...] = ()
    embeddings: tuple[str, ...] = ()
    embedding: str = EMBED_TOKENS
    head: bool = True
    experts: Routed | None = None
    defaults: Mapping[str, int] = field(default_factory=dict)
    naming: Naming = Naming()
    inner: Mapping[str, str] = field(default_factory=dict)


_BOTH = (EMBED_TOKENS, LM_HEAD)
_AROUND = Naming("language_model.model.", ("model.language_model.", "language_model.model.", "model."))
_BACKBONE = Naming("model.", ("backbone.", "model."))

_PLAIN = Architecture((attention(), gated_mlp()))
_LLAMA = replace(_PLAIN, embeddings=_BOTH)
_TRANSFORMERS = replace(_PLAIN, embeddings=(EMBED_TOKENS,))
"""Served by way of ``transformers``, whose projections vLLM fuses where it recognises them."""

_MISTRAL = replace(_PLAIN, defaults={"num_key_value_heads": 8})
_COHERE = replace(_TRANSFORMERS, head=False)
_GEMMA = replace(_PLAIN, defaults={"head_dim": 256})
_GEMMA_3 = replace(
    _GEMMA,
    defaults={"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208},
)
_QWEN_2 = Architecture((attention(head_dim=False), gated_mlp()))
_QWEN_3 = replace(_LLAMA, defaults={"head_dim": 128})
_QWEN_EXPERTS = routed_experts("mlp.experts", count=("num_experts",))
_QWEN_3_MOE = Architecture(
    (attention(), qwen_moe_mlps(shared=False, packs_shared=False), router("mlp.gate", "num_experts")),
    embeddings=_BOTH,
    experts=_QWEN_EXPERTS,
)
_QWEN_3_5 = Architecture(
    (gated_delta_net, attention(gated=True), gated_mlp()),
    embeddings=_BOTH,
    naming=_AROUND,
)
_DEEPSEEK = Architecture(
    (latent_attention, deepseek_mlps),
    experts=routed_experts("mlp.experts", count=("n_routed_experts",), optional=True),
)


def _packed(*path: str, **fields: Any) -> Routed:
    """Return experts whose gate and up are one tensor to vLLM."""
    return routed_experts(*path, packed=True, **fields)


def _nemotron_experts(fields: Fields) -> MoeShape | None:
    read = routed_experts(
        "mixer.experts",
        count=("n_routed_experts",),
        latent="moe_latent_size",
        parts=("up_proj", "down_proj"),
        gated=False,
    )
    return read(fields) if MIXTURE in layer_kinds(fields) else None


ARCHITECTURES: Mapping[str, Architecture] = {
    "Cohere2ForCausalLM": _COHERE,
    "CohereForCausalLM": _COHERE,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": replace(_DEEPSEEK, defaults={"first_k_dense_replace": 3}),
    "Gemma2ForCausalLM": replace(_GEMMA, head=False),
    "Gemma3ForCausalLM": _GEMMA_3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA_3, naming=_AROUND),
    "GemmaForCausalLM": _GEMMA,
    "GptOssForCausalLM": Architecture(
        (attention("attn", known_as="self_attn"), router("mlp.router", "num_local_experts", "num_experts")),
        embedding="embedding",
        experts=_packed(
            "mlp.experts",
            count=("num_local_experts", "num_experts"),
            top_k=("num_experts_per_tok", "experts_per_token"),
            intermediate="intermediate_size",
        ),
        defaults={"head_dim": 64},
    ),
    "GraniteForCausalLM": _LLAMA,
    "InternLM3ForCausalLM": _LLAMA,
    "LLaMAForCausalLM": _LLAMA,
    "LlamaForCausalLM": _LLAMA,
    "LlavaForConditionalGeneration": Architecture(
        naming=_AROUND, inner={"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
    ),
    "Ministral3ForCausalLM": _MISTRAL,
    "MinistralForCausalLM": _TRANSFORMERS,
    "Mistral3ForConditionalGeneration": Architecture(
        naming=_AROUND, inner={"ministral3": "Ministral3ForCausalLM", "mistral": "MistralForCausalLM"}
    ),
    "MistralForCausalLM": _MISTRAL,
    "MixtralForCausalLM": Architecture(
        (attention(), router("block_sparse_moe.gate", "num_local_experts", "num_experts")),
        embeddings=_BOTH,
        experts=routed_experts(
            "block_sparse_moe.experts",
            "mlp.experts",
            count=("num_local_experts", "num_experts"),
            intermediate="intermediate_size",
            parts=("w1", "w2", "w3"),
        ),
        defaults={"num_key_value_heads": 8},
    ),
    "NemotronHForCausalLM": Architecture((nemotron_h,), embeddings=_BOTH, experts=_nemotron_experts, naming=_BACKBONE),
    "Olmo2ForCausalLM": _TRANSFORMERS,
    "Olmo3ForCausalLM": _TRANSFORMERS,
    "Phi3ForCausalLM": Architecture((attention(fused=True), gated_mlp(fused=True)), embeddings=_BOTH),
    "Qwen2ForCausalLM": _QWEN_2,
    "Qwen2MoeForCausalLM": Architecture(
        (
            attention(head_dim=False),
            qwen_moe_mlps(shared=True, packs_shared=True),
            router("mlp.gate", "num_experts"),
        ),
        experts=_QWEN_EXPERTS,
    ),
    "Qwen2VLForConditionalGeneration": replace(_QWEN_2, naming=_AROUND),
    "Qwen2_5_VLForConditionalGeneration": replace(_QWEN_2, naming=_AROUND),
    "Qwen3ForCausalLM": _QWEN_3,
    "Qwen3MoeForCausalLM": _QWEN_3_MOE,
    "Qwen3VLForConditionalGeneration": replace(_QWEN_3, naming=_AROUND),
    "Qwen3VLMoeForConditionalGeneration": replace(
        _QWEN_3_MOE,
        experts=_packed("mlp.experts", count=("num_experts",)),
        naming=_AROUND,
    ),
    "Qwen3_5ForConditionalGeneration": _QWEN_3_5,
    "Qwen3_5MoeForConditionalGeneration": replace(
        _QWEN_3_5,
        blocks=(
            gated_delta_net,
            attention(gated=True),
            qwen_moe_mlps(shared=True, packs_shared=True),
            router("mlp.gate", "num_experts"),
        ),
        experts=_packed("mlp.experts", count=("num_experts",)),
    ),
    "SmolLM3ForCausalLM": _TRANSFORMERS,
}
"""Architectures whose lookups are known."""

WITHOUT_ADAPTERS = frozenset(
    {
        "BailingMoeV2_5ForCausalLM", "BailingMoeV3ForCausalLM", "BloomForCausalLM", "Cohere2MoeForCausalLM",
        "Cohere2VisionForConditionalGeneration", "DbrxForCausalLM", "DeepseekVLV2ForCausalLM", "FalconForCausalLM",
        "FalconMambaForCausalLM", "GPT2LMHeadModel", "GPTJForCausalLM", "Gemma3nForCausalLM",
        "Gemma3nForConditionalGeneration", "Glm5NextForCausalLM", "KimiK25ForConditionalGeneration",
        "KimiVLForConditionalGeneration", "LlavaOnevisionForConditionalGeneration", "Mamba2ForCausalLM",
        "MambaForCausalLM", "MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM", "MiMoV2OmniForCausalLM",
        "MoonshotKimiaForCausalLM", "OrionForCausalLM", "Phi3VForCausalLM", "Qwen2AudioForConditionalGeneration",
        "StableLmForCausalLM", "Step1ForCausalLM", "Step3TextForCausalLM", "Step3VLForConditionalGeneration",
        "Step3p5ForCausalLM", "Step3p7ForConditionalGeneration", "Zamba2ForCausalLM",
    }
)  # fmt: skip
"""Architectures that vLLM 0.33 serves by a class without ``SupportsLoRA``: an engine with ``--enable-lora`` stops."""


def architecture_of(config: Mapping[str, Any], text: Mapping[str, Any], source: Path) -> tuple[str, Architecture]:
    """Return the name of a model's architecture, and what is known of it.

    Args:
        config: the parsed ``config.json``.
        text: the part of it that describes the language model.

    Raises:
        ModelError: the config names none that is known, or one that takes no adapters.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"{source}: architectures: expected the list of the model's classes, which decides what vLLM makes of it, "
            f"got {shown(names)}; known are {', '.join(ARCHITECTURES)}"
        )
    for name in names:
        if name in WITHOUT_ADAPTERS:
            raise ModelError(f"{source}: architectures: {name} takes no adapters in vLLM 0.33: no SupportsLoRA")
        if name in ARCHITECTURES:
            return name, _with_inner(name, text, source)
    raise ModelError(
        f"{source}: architectures: expected one of {', '.join(ARCHITECTURES)}, got {shown(names)}; "
        "other models can be given as [[problem]] entries of a study file"
    )


def _with_inner(name: str, text: Mapping[str, Any], source: Path) -> Architecture:
    outer = ARCHITECTURES[name]
    if not outer.inner:
        return outer
    kind = text.get("model_type")
    inner = outer.inner.get(kind) if isinstance(kind, str) else None
    if inner is None:
        raise ModelError(
            f"{source}: text_config.model_type: expected one of {', '.join(outer.inner)} in a model of {name}, "
            f"got {shown(kind)}"
        )
    return replace(ARCHITECTURES[inner], naming=outer.naming)
