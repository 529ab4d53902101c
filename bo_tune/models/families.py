"""Model families: what vLLM makes of a ``model_type``, as far as adapters see it.

Read from vLLM 0.33.0, one file of ``model_executor/models`` a family: ``packed_modules_mapping`` says which projections
are one layer, ``embedding_modules`` whether embeddings take adapters without being asked to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

LM_HEAD = "lm_head"
EMBED_TOKENS = "embed_tokens"


@dataclass(frozen=True, slots=True)
class ExpertFields:
    """Where a config says how its experts are shaped.

    Attributes:
        count: fields that may hold the number of experts, the first present counts.
        top_k: fields that may hold the number of experts a token visits.
        intermediate: field of one expert's intermediate size.
        shared: field of the shared expert's intermediate size; None where the family has none.
        sparse_only: whether every layer has experts.
        packs_shared: whether a shared expert alone makes vLLM pack gate and up; dense layers always do.
    """

    count: tuple[str, ...]
    top_k: tuple[str, ...] = ("num_experts_per_tok",)
    intermediate: str = "intermediate_size"
    shared: str | None = None
    sparse_only: bool = True
    packs_shared: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """How vLLM builds the models of one ``model_type``.

    Attributes:
        fused: whether the checkpoint itself holds qkv, and gate and up, as one projection each: one slice of the sum.
        embeddings: what takes adapters besides the linear layers, unless target modules say otherwise.
        embedding: name of the input embedding's module.
        dense_known: whether the dense layers are those of ``layers``; where not, only the experts pose problems.
        router: name of the module that chooses experts.
        experts: where the experts are described; None for dense models.
        defaults: fields that a config may leave out, with what ``transformers`` takes for them.
    """

    fused: bool = False
    embeddings: tuple[str, ...] = ()
    embedding: str = EMBED_TOKENS
    dense_known: bool = True
    router: str = "gate"
    experts: ExpertFields | None = None
    defaults: Mapping[str, int] = field(default_factory=dict)


_ALL = (EMBED_TOKENS, LM_HEAD)
_PLAIN = Family()
_WITH_EMBEDDINGS = Family(embeddings=_ALL)
_TRANSFORMERS = Family(embeddings=(EMBED_TOKENS,))
"""Families that vLLM serves by way of ``transformers``, fusing what it recognises."""

_GEMMA = Family(defaults={"head_dim": 256})
_GEMMA_3 = Family(defaults={"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208})
_QWEN_3 = Family(embeddings=_ALL, defaults={"head_dim": 128})
_MISTRAL = Family(defaults={"num_key_value_heads": 8})
_QWEN_MOE = ExpertFields(
    ("num_experts",),
    intermediate="moe_intermediate_size",
    shared="shared_expert_intermediate_size",
    sparse_only=False,
)

_DEEPSEEK = Family(
    dense_known=False,  # multi-head latent attention
    experts=ExpertFields(("n_routed_experts",), intermediate="moe_intermediate_size"),
)

FAMILIES: Mapping[str, Family] = {
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA_3,
    "gemma3_text": _GEMMA_3,
    "gpt_oss": Family(
        embedding="embedding",
        router="router",
        experts=ExpertFields(("num_local_experts", "num_experts"), ("num_experts_per_tok", "experts_per_token")),
        defaults={"head_dim": 64},
    ),
    "granite": _WITH_EMBEDDINGS,
    "llama": _WITH_EMBEDDINGS,
    "ministral": _TRANSFORMERS,
    "ministral3": _MISTRAL,
    "mistral": _MISTRAL,
    "mistral3": _MISTRAL,
    "mixtral": Family(
        embeddings=_ALL,
        experts=ExpertFields(("num_local_experts", "num_experts")),
        defaults={"num_key_value_heads": 8},
    ),
    "olmo2": _TRANSFORMERS,
    "phi3": Family(fused=True, embeddings=_ALL),
    "qwen2": _PLAIN,
    "qwen2_5_vl": _PLAIN,
    "qwen2_5_vl_text": _PLAIN,
    "qwen2_moe": Family(experts=replace(_QWEN_MOE, packs_shared=True)),
    "qwen2_vl": _PLAIN,
    "qwen2_vl_text": _PLAIN,
    "qwen3": _QWEN_3,
    "qwen3_moe": Family(embeddings=_ALL, experts=_QWEN_MOE),
    "qwen3_vl": _QWEN_3,
    "qwen3_vl_text": _QWEN_3,
    "smollm3": _TRANSFORMERS,
}
"""Families by ``model_type``."""

PACKED: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Layers by the projections that vLLM packs into one. Adapting one of them makes the whole layer take adapters."""

EXPERT_MODULES = frozenset({"experts", "gate_proj", "up_proj", "gate_up_proj", "down_proj", "w1", "w2", "w3"})
"""Names by which adapters address experts, which pose no dense problem."""

EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
"""Fields that only a mixture of experts has."""
