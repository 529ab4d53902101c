"""Writes a model that vLLM can serve without a download: random weights, a tokenizer of numbered words, and adapters.

    python examples/serving/random_model.py studies/models/llama-3.1-8b --rank 16 --adapters 4 --out served

The folder gets ``model`` (config and tokenizer; serve it with ``--load-format dummy``) and ``adapter-1``,
``adapter-2``, …, each for all linears of all layers. Answers are nonsense; their times are those of the real model.
Needs numpy and safetensors, which every vLLM has. Dense models of the Llama and Qwen families alone.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

FILLED_IN = {"hidden_act": "silu", "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2}
"""What an engine needs of a config besides its dimensions."""

SCALE = 0.01
"""Standard deviation of an adapter's weights."""


def write_model(source: Path, folder: Path) -> dict[str, Any]:
    """Write config and tokenizer into a folder, and return the config."""
    config: dict[str, Any] = {**FILLED_IN, **json.loads((source / "config.json").read_text())}
    words = {f"w{number}": number for number in range(config["vocab_size"])}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    folder.mkdir(parents=True)
    for name, content in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", described)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return config


def linears(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return input and output width of the linears of a layer, by their names."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    attention = {"q_proj": (hidden, q), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (q, hidden)}
    mlp = {"gate_proj": (hidden, wide), "up_proj": (hidden, wide), "down_proj": (wide, hidden)}
    return {
        **{f"self_attn.{name}": sizes for name, sizes in attention.items()},
        **{f"mlp.{name}": sizes for name, sizes in mlp.items()},
    }


def write_adapter(folder: Path, config: Mapping[str, Any], rank: int, seed: int) -> None:
    """Write an adapter of all linears into a folder."""
    drawn = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (k, n) in linears(config).items():
            for part, shape in (("lora_A", (rank, k)), ("lora_B", (n, rank))):
                weights = (SCALE * drawn.standard_normal(shape, dtype=np.float32)).astype(np.float16)
                tensors[f"base_model.model.model.layers.{layer}.{name}.{part}.weight"] = weights
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "model",
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": sorted(name.partition(".")[2] for name in linears(config)),
    }
    (folder / "adapter_config.json").write_text(json.dumps(described))


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the model's config.json")
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapters")
    parser.add_argument("--adapters", type=int, default=4, help="how many adapters")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    options = parser.parse_args()
    config = write_model(options.source, options.out / "model")
    for number in range(1, options.adapters + 1):
        write_adapter(options.out / f"adapter-{number}", config, options.rank, seed=number)
    print(f"wrote {options.out / 'model'} and {options.adapters} adapters")


if __name__ == "__main__":
    main()
