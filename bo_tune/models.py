"""From a model's Hugging Face ``config.json`` and its sharding to the problems that its LoRA layers pose.

Notation: P tensor-parallel size, R rank.

============ =================== ====== =====================================================
layer        shrink k            slices expand n per slice
============ =================== ====== =====================================================
qkv_proj     hidden              3      q: heads·head_dim/P, k and v: max(1, kv_heads/P)·head_dim
o_proj       heads·head_dim/P    1      hidden
gate_up_proj hidden              2      intermediate/P each
down_proj    intermediate/P      1      hidden
============ =================== ====== =====================================================

Shrink asks for (k, n = R), expand for (k = R, n = the widest slice).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bo_tune.errors import ModelError
from bo_tune.files import os_error_text
from bo_tune.problem import DTYPES, Problem

SHRINK = "lora_shrink"
EXPAND = "lora_expand"
DENSE_KERNELS = (SHRINK, EXPAND)
"""Kernels whose problems can be told from a dense model's config."""

CONFIG_FILE = "config.json"

GATED_FAMILIES = frozenset(
    {
        "gemma", "gemma2", "gemma3", "gemma3_text", "granite", "llama", "ministral", "mistral", "mistral3", "olmo2",
        "qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_vl", "qwen2_vl_text", "qwen3", "qwen3_vl", "qwen3_vl_text",
        "smollm3",
    }
)  # fmt: skip
"""``model_type`` of families with separate q, k, v and gate, up projections, which vLLM fuses."""

FUSED_FAMILIES = frozenset({"phi3"})
"""``model_type`` of families whose checkpoints hold qkv, and gate and up, as one projection: one slice of the sum."""

_EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """One layer that takes adapters, on one tensor-parallel rank.

    Attributes:
        shrink_k: input width of the layer, in elements.
        slice_sizes: output widths of its fused slices, in elements.
    """

    name: str
    shrink_k: int
    slice_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of a dense model that its LoRA layers depend on.

    Attributes:
        source: the file they come from, for messages.
        dtype: element type that vLLM would serve it in.
        fused: whether the checkpoint itself holds qkv and gate/up as one projection each.
    """

    name: str
    source: Path
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str = "bfloat16"
    fused: bool = False

    @classmethod
    def from_file(cls, path: Path) -> "ModelShape":
        """Read a ``config.json``, or the one in a folder.

        Raises:
            ModelError: the file cannot be read, lacks a field, or is of a model that is not supported.
        """
        file = path / CONFIG_FILE if path.is_dir() else path
        try:
            config = json.loads(file.read_bytes())
        except OSError as error:
            raise ModelError(f"{file}: {os_error_text(error)}") from None
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{file}: not JSON: {error}") from None
        if not isinstance(config, dict):
            raise ModelError(f"{file}: expected the object of a Hugging Face model config")
        return cls.from_config(config, file)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: Path) -> "ModelShape":
        """Read a parsed ``config.json``; dimensions may stand under ``text_config``. Raises ModelError."""
        text = _text_config(config, source)
        family = _check_family(text, source)
        hidden = _size(text, "hidden_size", source)
        heads = _size(text, "num_attention_heads", source)
        if text.get("head_dim") is None and hidden % heads:
            raise ModelError(f"{source}: head_dim is missing and hidden_size {hidden} is no multiple of {heads} heads")
        return cls(
            name=source.parent.name if source.name == CONFIG_FILE else source.stem,
            source=source,
            hidden=hidden,
            intermediate=_size(text, "intermediate_size", source),
            heads=heads,
            kv_heads=_size(text, "num_key_value_heads", source, default=heads),
            head_dim=_size(text, "head_dim", source, default=hidden // heads),
            dtype=_dtype(text, config),
            fused=family in FUSED_FAMILIES,
        )

    def layers(self, tensor_parallel: int = 1) -> list[LoraLayer]:
        """Return the four LoRA layers as one of ``tensor_parallel`` ranks holds them.

        Raises:
            ModelError: a dimension does not divide.
        """
        p = tensor_parallel
        if p < 1:
            raise ModelError(f"{self.source}: expected a tensor-parallel size of at least 1, got {p}")
        self._check_divides("num_attention_heads", self.heads, p)
        self._check_divides("intermediate_size", self.intermediate, p)
        if self.kv_heads >= p:
            self._check_divides("num_key_value_heads", self.kv_heads, p)
        elif p % self.kv_heads:
            raise ModelError(
                f"{self.source}: num_key_value_heads: expected a divisor or a multiple of the tensor-parallel "
                f"size {p}, got {self.kv_heads}"
            )
        q = self.heads * self.head_dim // p
        kv = max(1, self.kv_heads // p) * self.head_dim
        wide = self.intermediate // p
        return [
            LoraLayer("qkv_proj", self.hidden, (q + 2 * kv,) if self.fused else (q, kv, kv)),
            LoraLayer("o_proj", q, (self.hidden,)),
            LoraLayer("gate_up_proj", self.hidden, (2 * wide,) if self.fused else (wide, wide)),
            LoraLayer("down_proj", wide, (self.hidden,)),
        ]

    def _check_divides(self, field: str, value: int, p: int) -> None:
        if value % p:
            raise ModelError(
                f"{self.source}: {field}: expected a multiple of the tensor-parallel size {p}, got {value}"
            )


def problems_by_layer(
    layers: Sequence[LoraLayer],
    *,
    ranks: Sequence[int],
    max_loras: Sequence[int],
    ms: Sequence[int],
    kernels: Sequence[str] = DENSE_KERNELS,
    dtype: str = "bfloat16",
    add_inputs: Sequence[bool] = (True,),
) -> dict[Problem, tuple[str, ...]]:
    """Return the problems that layers pose, each once, with the names of the layers it serves.

    Two layers pose the same problem where the engine looks up the same entry: expand of o_proj and down_proj, say.
    Equal lookups whose slices differ in the narrower ones count as one problem, the first.

    Args:
        ranks: values of the engine's ``--max-lora-rank``.
        max_loras: values of the engine's ``--max-loras``.
        ms: tokens in a step.
        add_inputs: whether expand adds to its output.

    Raises:
        ModelError: a kernel is none of ``DENSE_KERNELS``.
    """
    first: dict[tuple[object, ...], Problem] = {}
    served: dict[Problem, tuple[str, ...]] = {}
    for problem, layer in _all_problems(layers, ranks, max_loras, ms, kernels, dtype, add_inputs):
        problem = first.setdefault(lookup_of(problem), problem)
        names = served.get(problem, ())
        served[problem] = names if layer in names else (*names, layer)
    return served


def lookup_of(problem: Problem) -> tuple[object, ...]:
    """Return what tells the entries of the JSON files apart: equal for problems that share one entry."""
    return (
        problem.kernel, problem.max_loras, problem.num_slices, problem.m, problem.k, problem.n, problem.i,
        problem.add_inputs,
    )  # fmt: skip


def _all_problems(
    layers: Sequence[LoraLayer],
    ranks: Sequence[int],
    max_loras: Sequence[int],
    ms: Sequence[int],
    kernels: Sequence[str],
    dtype: str,
    add_inputs: Sequence[bool],
) -> Iterable[tuple[Problem, str]]:
    for kernel in kernels:
        if kernel not in DENSE_KERNELS:
            raise ModelError(f"no problems of {kernel} can be told from a model; expected {' or '.join(DENSE_KERNELS)}")
        for slots in max_loras:
            for rank in ranks:
                for layer in layers:
                    for m in ms:
                        for problem in _layer_problems(kernel, layer, slots, rank, m, dtype, add_inputs):
                            yield problem, layer.name


def _layer_problems(
    kernel: str, layer: LoraLayer, max_loras: int, rank: int, m: int, dtype: str, add_inputs: Sequence[bool]
) -> list[Problem]:
    slices = len(layer.slice_sizes)
    if kernel == SHRINK:
        return [Problem(kernel, max_loras, slices, m, layer.shrink_k, rank, dtype=dtype)]
    return [
        Problem(
            kernel, max_loras, slices, m, rank, max(layer.slice_sizes), dtype=dtype, slice_sizes=layer.slice_sizes,
            add_inputs=adds,
        )
        for adds in add_inputs
    ]  # fmt: skip


def _text_config(config: Mapping[str, Any], source: Path) -> Mapping[str, Any]:
    text = config.get("text_config")
    if text is None:
        return config
    if not isinstance(text, dict):
        raise ModelError(f"{source}: text_config: expected an object, got {text!r}")
    return text if "hidden_size" in text else config


def _check_family(text: Mapping[str, Any], source: Path) -> str:
    experts = [name for name in _EXPERT_FIELDS if text.get(name)]
    if experts:
        raise ModelError(f"{source}: {experts[0]}: a mixture of experts is not supported, expected a dense model")
    family = text.get("model_type", "llama")
    known = GATED_FAMILIES | FUSED_FAMILIES
    if not isinstance(family, str) or family not in known:
        raise ModelError(
            f"{source}: model_type: expected one of {', '.join(sorted(known))}, got {family!r}; "
            "other models can be given as [[problem]] entries of a study file"
        )
    return family


def _size(text: Mapping[str, Any], field: str, source: Path, default: int | None = None) -> int:
    value = text.get(field)
    if value is None:
        if default is None:
            raise ModelError(f"{source}: {field} is missing")
        return default
    if type(value) is not int or value < 1:
        raise ModelError(f"{source}: {field}: expected an integer >= 1, got {value!r}")
    return value


def _dtype(text: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the dtype vLLM serves the model in: the checkpoint's, or bfloat16 for float32 and quantised ones."""
    for owner in (text, config):
        for field in ("dtype", "torch_dtype"):
            value = owner.get(field)
            if isinstance(value, str):
                name = value.removeprefix("torch.")
                return name if name in DTYPES else "bfloat16"
    return "bfloat16"
