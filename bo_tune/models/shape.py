"""A model's Hugging Face ``config.json``: the dimensions that its LoRA layers depend on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bo_tune.errors import ModelError
from bo_tune.files import os_error_text
from bo_tune.models.engine import MOST_LOGITS
from bo_tune.models.families import EXPERT_FIELDS, EXPERT_MODULES, FAMILIES, LM_HEAD, ExpertFields, Family
from bo_tune.models.layers import LoraLayer, Sharding, targeted
from bo_tune.problem import DTYPES

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class MoeShape:
    """The experts of a model, whole.

    Attributes:
        num_experts: experts of a layer that tokens are routed to.
        top_k: experts that each token visits.
        intermediate: intermediate size of one expert.
        shared_intermediate: intermediate size of the expert that every token visits; 0 without one.
        packs_gate_up: whether vLLM packs gate and up of the dense MLPs; where not, they take no adapters.
    """

    num_experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0
    packs_gate_up: bool = False


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a model that its LoRA layers depend on.

    Attributes:
        source: where they come from, for messages.
        intermediate: intermediate size of the dense MLPs; None where every layer has experts instead.
        vocabulary: rows of the embedding; None where the config does not say.
        dtype: element type that vLLM would serve it in.
        family: how vLLM builds it.
        moe: the experts, if any.
    """

    name: str
    source: Path
    hidden: int
    intermediate: int | None
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int | None = None
    dtype: str = "bfloat16"
    family: Family = Family()
    moe: MoeShape | None = None

    @classmethod
    def from_file(cls, path: Path, name: str | None = None) -> "ModelShape":
        """Read a ``config.json``, or the one in a folder.

        Args:
            name: of the model; told from the path if left out.

        Raises:
            ModelError: the file cannot be read, lacks a field, or is of a model that is not supported.
        """
        file = path / CONFIG_FILE if path.is_dir() else path
        return cls.from_config(read_object(file, "a Hugging Face model config"), file, name)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: Path, name: str | None = None) -> "ModelShape":
        """Read a parsed ``config.json``; dimensions may stand under ``text_config``. Raises ModelError."""
        text = _text_config(config, source)
        family = _family(text, source)
        fields = Fields({**family.defaults, **{key: value for key, value in text.items() if value is not None}}, source)
        hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
        if fields.missing("head_dim") and hidden % heads:
            raise ModelError(f"{source}: head_dim is missing and hidden_size {hidden} is no multiple of {heads} heads")
        return cls(
            name=name or (source.parent.name if source.name == CONFIG_FILE else source.stem),
            source=source,
            hidden=hidden,
            intermediate=_intermediate(fields, family),
            heads=heads,
            kv_heads=fields.size("num_key_value_heads", default=heads),
            head_dim=fields.size("head_dim", default=hidden // heads),
            vocabulary=None if fields.missing("vocab_size") else fields.size("vocab_size"),
            dtype=_dtype(text, config),
            family=family,
            moe=_moe(fields, family.experts) if family.experts else None,
        )

    def layers(
        self,
        tensor_parallel: int = 1,
        *,
        fully_sharded: bool = False,
        target_modules: Sequence[str] | None = None,
    ) -> list[LoraLayer]:
        """Return the dense layers that take adapters, as one of ``tensor_parallel`` ranks holds them.

        There are none of a family whose dense layers are not known.

        Args:
            fully_sharded: the engine's ``--fully-sharded-loras``.
            target_modules: the engine's ``--lora-target-modules``; None for all that vLLM supports.

        Raises:
            ModelError: a dimension is missing or does not divide, or a target module is unknown.
        """
        if not self.family.dense_known:
            return []
        self._check_sharding(tensor_parallel, fully_sharded)
        sharding = Sharding(tensor_parallel, fully_sharded)
        linear = [*self._attention(sharding), *self._mlps(sharding), *self._router()]
        try:
            if target_modules is None:
                wanted = [*linear, *(layer for layer in self._embeddings() if layer.name in self.family.embeddings)]
            else:
                others = EXPERT_MODULES if self.moe else frozenset[str]()
                wanted = targeted([*linear, *self._embeddings()], target_modules, others)
        except ModelError as error:
            raise ModelError(f"{self.source}: {error}") from None
        self._check_vocabulary(wanted)
        return wanted

    def _attention(self, sharding: Sharding) -> list[LoraLayer]:
        p = sharding.tensor_parallel
        q = self.heads * self.head_dim // p
        kv = max(1, self.kv_heads // p) * self.head_dim
        return [
            sharding.column("qkv_proj", self.hidden, (q, kv, kv), fused=self.family.fused),
            sharding.row("o_proj", q, self.hidden),
        ]

    def _mlps(self, sharding: Sharding) -> list[LoraLayer]:
        layers = []
        for prefix, intermediate in self._mlp_sizes():
            wide = intermediate // sharding.tensor_parallel
            if self.moe is None or self.moe.packs_gate_up:
                name = f"{prefix}gate_up_proj"
                layers.append(sharding.column(name, self.hidden, (wide, wide), fused=self.family.fused))
            layers.append(sharding.row(f"{prefix}down_proj", wide, self.hidden))
        return layers

    def _mlp_sizes(self) -> list[tuple[str, int]]:
        shared = self.moe.shared_intermediate if self.moe else 0
        return [(prefix, size) for prefix, size in (("", self.intermediate), ("shared_expert.", shared)) if size]

    def _router(self) -> list[LoraLayer]:
        # The shared expert's own gate is called past its adapters in vLLM 0.33, so nothing is looked up for it.
        return [LoraLayer(self.family.router, self.hidden, (self.moe.num_experts,))] if self.moe else []

    def _embeddings(self) -> list[LoraLayer]:
        vocabulary = self.vocabulary or 1  # a missing one is an error only where lm_head takes adapters
        return [
            LoraLayer(self.family.embedding, None, (self.hidden,)),
            LoraLayer(LM_HEAD, self.hidden, (vocabulary,), per_sequence=True),
        ]

    def _check_sharding(self, p: int, fully_sharded: bool) -> None:
        if p < 1:
            raise ModelError(f"{self.source}: expected a tensor-parallel size of at least 1, got {p}")
        self._check_divides("num_attention_heads", self.heads, p)
        for prefix, size in self._mlp_sizes():
            self._check_divides("shared_expert_intermediate_size" if prefix else "intermediate_size", size, p)
        if fully_sharded:
            self._check_divides("hidden_size", self.hidden, p)
        if self.kv_heads >= p:
            self._check_divides("num_key_value_heads", self.kv_heads, p)
        elif p % self.kv_heads:
            raise ModelError(
                f"{self.source}: num_key_value_heads: expected a divisor or a multiple of the tensor-parallel "
                f"size {p}, got {self.kv_heads}"
            )

    def _check_divides(self, field: str, value: int, p: int) -> None:
        if value % p:
            raise ModelError(
                f"{self.source}: {field}: expected a multiple of the tensor-parallel size {p}, got {value}"
            )

    def _check_vocabulary(self, layers: Sequence[LoraLayer]) -> None:
        if not any(layer.name == LM_HEAD for layer in layers):
            return
        if self.vocabulary is None:
            raise ModelError(f"{self.source}: vocab_size is missing, and lm_head takes adapters")
        if self.vocabulary > MOST_LOGITS:
            raise ModelError(
                f"{self.source}: vocab_size: expected at most {MOST_LOGITS} where lm_head takes adapters, "
                f"got {self.vocabulary}"
            )


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a config, checked as they are read."""

    values: Mapping[str, Any]
    source: Path

    def missing(self, field: str) -> bool:
        """Say whether a field is absent or null."""
        return self.values.get(field) is None

    def size(self, field: str, default: int | None = None, least: int = 1) -> int:
        """Return an integer. Raises ModelError where it is missing without a default, or none."""
        value = self.values.get(field)
        if value is None:
            if default is None:
                raise ModelError(f"{self.source}: {field} is missing")
            return default
        if type(value) is not int or value < least:
            raise ModelError(f"{self.source}: {field}: expected an integer >= {least}, got {value!r}")
        return value

    def first_size(self, fields: Sequence[str]) -> int:
        """Return the integer of the first field that is there. Raises like ``size``."""
        return self.size(next((field for field in fields if not self.missing(field)), fields[0]))


def read_object(file: Path, expected: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ModelError: it cannot be read or holds something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(f"{file}: {os_error_text(error)}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: expected the object of {expected}")
    return content


def _text_config(config: Mapping[str, Any], source: Path) -> Mapping[str, Any]:
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, dict):
        raise ModelError(f"{source}: text_config: expected an object, got {text!r}")
    return text if "hidden_size" in text else config


def _family(text: Mapping[str, Any], source: Path) -> Family:
    name = text.get("model_type", "llama")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    experts = [field for field in EXPERT_FIELDS if text.get(field)]
    if experts and (family is None or family.experts is None):
        raise ModelError(
            f"{source}: {experts[0]}: a mixture of experts of model_type {name!r} is not supported, expected one of "
            f"{', '.join(name for name, known in sorted(FAMILIES.items()) if known.experts)}"
        )
    if family is None:
        raise ModelError(
            f"{source}: model_type: expected one of {', '.join(sorted(FAMILIES))}, got {name!r}; "
            "other models can be given as [[problem]] entries of a study file"
        )
    return family


def _intermediate(fields: Fields, family: Family) -> int | None:
    """Return the intermediate size of dense MLPs, or None where there are none."""
    if family.experts is None:
        return fields.size("intermediate_size")
    if family.experts.sparse_only:
        return None
    first_is_dense = fields.size("decoder_sparse_step", default=1) > 1
    return fields.size("intermediate_size") if fields.values.get("mlp_only_layers") or first_is_dense else None


def _moe(fields: Fields, experts: ExpertFields) -> MoeShape:
    shared = fields.size(experts.shared, default=0, least=0) if experts.shared else 0
    return MoeShape(
        num_experts=fields.first_size(experts.count),
        top_k=fields.first_size(experts.top_k),
        intermediate=fields.size(experts.intermediate),
        shared_intermediate=shared,
        packs_gate_up=bool(fields.values.get("mlp_only_layers")) or (shared > 0 and experts.packs_shared),
    )


def _dtype(text: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the dtype vLLM serves the model in: the checkpoint's, or bfloat16 for float32 and quantised ones."""
    for owner in (text, config):
        for field in ("dtype", "torch_dtype"):
            value = owner.get(field)
            if isinstance(value, str):
                name = value.removeprefix("torch.")
                return name if name in DTYPES else "bfloat16"
    return "bfloat16"
