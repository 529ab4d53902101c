"""How vLLM builds each entry of ``architectures`` in a model's config, as far as adapters are concerned.

Read from vLLM 0.33.0, with one file of ``model_executor/models`` per family. ``packed_modules_mapping`` says which
projections are one layer. ``embedding_modules`` says whether embeddings take adapters by default. ``is_3d_moe_weight``
says whether gate and up of experts are one tensor. The registry says which class serves an architecture.
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
    plain_mlp,
    qwen_moe_mlps,
    router,
    sparse_latent_attention,
    unfused_latent_attention,
)
from bo_tune.engines.models.architectures.fields import Fields
from bo_tune.engines.models.architectures.hybrid_blocks import (
    MIXTURE,
    falcon_h1_mamba,
    gated_delta_net,
    granite_hybrid,
    interleaved_delta_net,
    jamba,
    layer_kinds,
    lfm2_mlp,
    lfm2_moe_mlps,
    nemotron_h,
    short_convolutions,
)
from bo_tune.engines.models.architectures.mamba import Recurrent, granite_mamba, nemotron_mamba, usual_mamba
from bo_tune.engines.models.architectures.mixed_blocks import (
    gemma_4,
    hunyuan_shared_expert,
    llama_4,
    llama_vision,
    whisper,
)
from bo_tune.engines.models.architectures.modules import Naming
from bo_tune.engines.models.architectures.moe import MoeShape, Routed, routed_experts
from bo_tune.engines.models.architectures.without_adapters import WITHOUT_ADAPTERS
from bo_tune.errors import ModelError, UnknownArchitectureError
from bo_tune.files import shown


@dataclass(frozen=True, slots=True)
class Architecture:
    """How vLLM builds the models of one architecture.

    Attributes:
        blocks: the parts of its decoder layers.
        embeddings: those of embedding and lm_head that take adapters by default, without target modules.
        embedding: name of the input embedding's module.
        head: whether there is a separate lm_head, which target modules may name.
        experts: reader of its experts; None for dense models.
        mamba: reader of its Mamba-2 layers; None for models without.
        defaults: fields that a config may leave out, with the defaults of ``transformers``.
        aliases: its other names of fields, with the names used here.
        naming: prefixes of the full names of its modules.
        inner: for a model around a language model: the latter's architecture, by its ``model_type``.
        adapts_towers: whether vLLM also adapts towers of images and sounds when asked to.
        alone: whether its modules are known only at a tensor-parallel size of 1.
    """

    blocks: tuple[Block, ...] = ()
    embeddings: tuple[str, ...] = ()
    embedding: str = EMBED_TOKENS
    head: bool = True
    experts: Routed | None = None
    mamba: Recurrent | None = None
    defaults: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    naming: Naming = Naming()
    inner: Mapping[str, str] = field(default_factory=dict)
    adapts_towers: bool = False
    alone: bool = False


_BOTH = (EMBED_TOKENS, LM_HEAD)
_AROUND = Naming("language_model.model.", ("model.language_model.", "language_model.model.", "model."))
_MAYBE_AROUND = Naming("model.", ("model.", "model.language_model."))
_BACKBONE = Naming("model.", ("backbone.", "model."))

_PLAIN = Architecture((attention(), gated_mlp()))
_LLAMA = replace(_PLAIN, embeddings=_BOTH)
_TRANSFORMERS = replace(_PLAIN, embeddings=(EMBED_TOKENS,))
"""Served through ``transformers``. vLLM fuses the projections that it recognises."""

_MIXTURE_OF_8 = routed_experts(
    "block_sparse_moe.experts",
    "mlp.experts",
    count=("num_local_experts", "num_experts"),
    intermediate=("intermediate_size",),
    parts=("w1", "w2", "w3"),
)
_MIXTRAL = Architecture(
    (attention(), router("block_sparse_moe.gate", "num_local_experts", "num_experts")),
    embeddings=_BOTH,
    experts=_MIXTURE_OF_8,
    defaults={"num_key_value_heads": 8},
)
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
    adapts_towers=True,
)
_QWEN_3_5_MOE = replace(
    _QWEN_3_5,
    blocks=(
        gated_delta_net,
        attention(gated=True),
        qwen_moe_mlps(shared=True, packs_shared=True, packs=True),
        router("mlp.gate", "num_experts"),
    ),
)
_DEEPSEEK = Architecture(
    (latent_attention, deepseek_mlps),
    experts=routed_experts("mlp.experts", count=("n_routed_experts",), optional=True),
)
_DEEPSEEK_V32 = replace(
    _DEEPSEEK, blocks=(sparse_latent_attention, deepseek_mlps), defaults={"first_k_dense_replace": 3}
)
_GEMMA_4 = Architecture(
    (gemma_4,),
    experts=routed_experts(
        "experts",
        count=("num_experts",),
        top_k=("top_k_experts",),
        intermediate=("moe_intermediate_size", "expert_intermediate_size"),
        optional=True,
    ),
    defaults={"head_dim": 256},
)
_LLAMA_4 = Architecture(
    (llama_4,),
    experts=routed_experts("feed_forward.experts", count=("num_local_experts",), intermediate=("intermediate_size",)),
)
_LFM2 = Architecture((short_convolutions("conv_dim"), lfm2_mlp), embeddings=_BOTH)


def _packed(*path: str, **fields: Any) -> Routed:
    """Return a reader of experts whose gate and up are one tensor in vLLM."""
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


def _jamba_experts(fields: Fields) -> MoeShape | None:
    read = routed_experts(
        "feed_forward.experts", count=("num_experts",), intermediate=("intermediate_size",), optional=True
    )
    return read(fields) if fields.size("num_experts", default=1) > 1 else None


ARCHITECTURES: Mapping[str, Architecture] = {
    "Cohere2ForCausalLM": _COHERE,
    "CohereForCausalLM": _COHERE,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": replace(_DEEPSEEK, defaults={"first_k_dense_replace": 3}),
    "DeepseekV32ForCausalLM": _DEEPSEEK_V32,
    "Exaone4ForCausalLM": _LLAMA,
    "ExaoneForCausalLM": Architecture(
        (
            attention("attn.attention", names=("qkv_proj", "out_proj"), layer="h.*."),
            gated_mlp(names=("gate_up_proj", "c_proj"), parts=("c_fc_0", "c_fc_1"), layer="h.*."),
        ),
        embeddings=("wte", LM_HEAD),
        embedding="wte",
        naming=Naming("transformer.", ("transformer.",)),
    ),
    "FalconH1ForCausalLM": Architecture(
        (falcon_h1_mamba, attention(), gated_mlp("feed_forward")), embeddings=_BOTH, mamba=usual_mamba
    ),
    "Gemma2ForCausalLM": replace(_GEMMA, head=False),
    "Gemma3ForCausalLM": _GEMMA_3,
    "Gemma3ForConditionalGeneration": replace(_GEMMA_3, naming=_AROUND, adapts_towers=True),
    "Gemma4ForCausalLM": _GEMMA_4,
    "Gemma4ForConditionalGeneration": replace(_GEMMA_4, naming=_AROUND, adapts_towers=True),
    "GemmaForCausalLM": _GEMMA,
    "Glm4ForCausalLM": _PLAIN,
    "Glm4MoeForCausalLM": replace(
        _DEEPSEEK, blocks=(attention(), deepseek_mlps), defaults={"first_k_dense_replace": 1}
    ),
    "Glm4MoeLiteForCausalLM": replace(_DEEPSEEK, defaults={"first_k_dense_replace": 1}),
    "GlmMoeDsaForCausalLM": _DEEPSEEK_V32,
    "GptOssForCausalLM": Architecture(
        (attention("attn", known_as="self_attn"), router("mlp.router", "num_local_experts", "num_experts")),
        embedding="embedding",
        experts=_packed(
            "mlp.experts",
            count=("num_local_experts", "num_experts"),
            top_k=("num_experts_per_tok", "experts_per_token"),
            intermediate=("intermediate_size",),
        ),
        defaults={"head_dim": 64},
    ),
    "GraniteForCausalLM": _LLAMA,
    "GraniteMoeHybridForCausalLM": Architecture(
        (granite_hybrid,),
        embeddings=_BOTH,
        mamba=granite_mamba,
        experts=routed_experts(
            "block_sparse_moe.experts",
            count=("num_local_experts",),
            intermediate=("intermediate_size",),
            optional=True,
        ),
    ),
    "HunYuanMoEV1ForCausalLM": Architecture(
        (attention(), router("mlp.gate.wg", "num_experts"), hunyuan_shared_expert),
        embeddings=(EMBED_TOKENS,),
        experts=routed_experts(
            "mlp.experts",
            count=("num_experts",),
            top_k=("moe_topk", "num_experts_per_tok"),
            intermediate=("moe_intermediate_size", "intermediate_size"),
        ),
    ),
    "InternLM2ForCausalLM": Architecture(
        (
            attention("attention", fused=True, head_dim=False, names=("wqkv", "wo")),
            gated_mlp("feed_forward", names=("gate_up_proj", "w2"), parts=("w1", "w3")),
        ),
        embedding="tok_embeddings",
    ),
    "InternLM3ForCausalLM": _LLAMA,
    "JambaForCausalLM": Architecture(
        (jamba,),
        embeddings=_BOTH,
        experts=_jamba_experts,
    ),
    "LLaMAForCausalLM": _LLAMA,
    "Lfm2ForCausalLM": _LFM2,
    "Lfm2MoeForCausalLM": replace(
        _LFM2,
        blocks=(short_convolutions("hidden_size"), lfm2_moe_mlps),
        experts=routed_experts("feed_forward.experts", count=("num_experts",), parts=("w1", "w2", "w3")),
    ),
    "Lfm2VlForConditionalGeneration": replace(_LFM2, naming=_AROUND, adapts_towers=True),
    "Llama4ForCausalLM": replace(_LLAMA_4, embeddings=_BOTH),
    "Llama4ForConditionalGeneration": replace(_LLAMA_4, naming=_AROUND, adapts_towers=True),
    "LlamaForCausalLM": _LLAMA,
    "LlavaForConditionalGeneration": Architecture(
        naming=_AROUND,
        inner={"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"},
        adapts_towers=True,
    ),
    "MiMoForCausalLM": _QWEN_2,
    "MiniCPM3ForCausalLM": Architecture((unfused_latent_attention, gated_mlp()), embeddings=_BOTH),
    "MiniMaxM2ForCausalLM": replace(_MIXTRAL, embeddings=(), defaults={}),
    "Ministral3ForCausalLM": _MISTRAL,
    "MinistralForCausalLM": _TRANSFORMERS,
    "Mistral3ForConditionalGeneration": Architecture(
        naming=_AROUND, inner={"ministral3": "Ministral3ForCausalLM", "mistral": "MistralForCausalLM"}
    ),
    "MistralForCausalLM": _MISTRAL,
    "MixtralForCausalLM": _MIXTRAL,
    "MllamaForConditionalGeneration": Architecture(
        (llama_vision,),
        embeddings=(EMBED_TOKENS,),
        naming=Naming("model.language_model.", ("model.language_model.", "language_model.model.")),
        alone=True,
    ),
    "NemotronForCausalLM": Architecture((attention(), plain_mlp()), embeddings=_BOTH),
    "NemotronHForCausalLM": Architecture(
        (nemotron_h,), embeddings=_BOTH, experts=_nemotron_experts, mamba=nemotron_mamba, naming=_BACKBONE
    ),
    "Olmo2ForCausalLM": _TRANSFORMERS,
    "Olmo3ForCausalLM": _TRANSFORMERS,
    "Phi3ForCausalLM": Architecture((attention(fused=True), gated_mlp(fused=True)), embeddings=_BOTH),
    "PhiForCausalLM": Architecture(
        (attention(head_dim=False, names=("qkv_proj", "dense")), plain_mlp(names=("fc1", "fc2"))),
        embeddings=(EMBED_TOKENS,),
    ),
    "PhiMoEForCausalLM": replace(_MIXTRAL, defaults={}),
    "Qwen2ForCausalLM": _QWEN_2,
    "Qwen2MoeForCausalLM": Architecture(
        (
            attention(head_dim=False),
            qwen_moe_mlps(shared=True, packs_shared=True),
            router("mlp.gate", "num_experts"),
        ),
        experts=_QWEN_EXPERTS,
    ),
    "Qwen2VLForConditionalGeneration": replace(_QWEN_2, naming=_AROUND, adapts_towers=True),
    "Qwen2_5_VLForConditionalGeneration": replace(_QWEN_2, naming=_AROUND, adapts_towers=True),
    "Qwen3ForCausalLM": _QWEN_3,
    "Qwen3MoeForCausalLM": _QWEN_3_MOE,
    "Qwen3NextForCausalLM": Architecture(
        (
            interleaved_delta_net,
            attention(gated=True),
            qwen_moe_mlps(shared=True, packs_shared=True, packs=True),
            router("mlp.gate", "num_experts"),
        ),
        experts=_QWEN_EXPERTS,
    ),
    "Qwen3VLForConditionalGeneration": replace(_QWEN_3, naming=_AROUND, adapts_towers=True),
    "Qwen3VLMoeForConditionalGeneration": replace(
        _QWEN_3_MOE,
        experts=_packed("mlp.experts", count=("num_experts",)),
        naming=_AROUND,
        adapts_towers=True,
    ),
    "Qwen3_5ForCausalLM": replace(_QWEN_3_5, naming=_MAYBE_AROUND, adapts_towers=False),
    "Qwen3_5ForConditionalGeneration": _QWEN_3_5,
    "Qwen3_5MoeForCausalLM": replace(_QWEN_3_5_MOE, experts=_QWEN_EXPERTS, naming=_MAYBE_AROUND, adapts_towers=False),
    "Qwen3_5MoeForConditionalGeneration": replace(
        _QWEN_3_5_MOE, experts=_packed("mlp.experts", count=("num_experts",))
    ),
    "SmolLM3ForCausalLM": _TRANSFORMERS,
    "SolarForCausalLM": _LLAMA,
    "WhisperForConditionalGeneration": Architecture(
        (whisper,),
        embedding="decoder.embed_tokens",
        head=False,
        aliases={"d_model": "hidden_size", "decoder_layers": "num_hidden_layers"},
    ),
}
"""Architectures whose lookups are known."""


def architecture_of(config: Mapping[str, Any], text: Mapping[str, Any], source: Path) -> tuple[str, Architecture]:
    """Return the name of a model's architecture, and its description.

    Args:
        config: the parsed ``config.json``.
        text: the part of it that describes the language model.

    Raises:
        ModelError: the config names no known architecture, or one that takes no adapters.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"{source}: architectures: expected the list of the model's classes, which determines how vLLM builds "
            f"it, got {shown(names)}; bo_tune knows {', '.join(ARCHITECTURES)}"
        )
    for name in names:
        if name in WITHOUT_ADAPTERS:
            raise ModelError(f"{source}: architectures: {name} takes no adapters in vLLM 0.33: it is not SupportsLoRA")
        if name in ARCHITECTURES:
            return name, _with_inner(name, text, source)
    raise UnknownArchitectureError(
        f"{source}: architectures: expected one of {', '.join(ARCHITECTURES)}, got {shown(names)}; for other "
        "models, record what the engine looks up, and tune that with --lookups"
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
    return replace(ARCHITECTURES[inner], naming=outer.naming, adapts_towers=outer.adapts_towers)
