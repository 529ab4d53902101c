"""Configs of models with Mamba-2 layers, for the tests that need no more than these fields."""

import json
from pathlib import Path
from typing import Any

from bo_tune.engines.models.serving import ModelStudy

NEMOTRON: dict[str, Any] = {
    "architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "M-M*", "hidden_size": 2688,
    "intermediate_size": 1856, "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8,
    "conv_kernel": 4, "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 131072,
    "num_hidden_layers": 4, "torch_dtype": "bfloat16", "mamba_ssm_cache_dtype": "float32",
}  # fmt: skip
FALCON: dict[str, Any] = {
    "architectures": ["FalconH1ForCausalLM"], "hidden_size": 3072, "intermediate_size": 12288, "mamba_d_conv": 4,
    "mamba_d_head": 128, "mamba_d_ssm": 3072, "mamba_d_state": 256, "mamba_n_groups": 1, "mamba_n_heads": 24,
    "mamba_expand": 2, "num_attention_heads": 12, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 130049,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def written(folder: Path, config: dict[str, Any], **more: Any) -> Path:
    """Write a config into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**config, **more}))
    return path


def served(folder: Path, config: dict[str, Any], **more: Any) -> ModelStudy:
    """Serve a model."""
    path = written(folder, config)
    return ModelStudy.of(str(path), **{"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": [1, 16], **more})
