"""The model of random weights that the tutorial serves: what vLLM reads of it is there, and fits its dimensions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from safetensors.numpy import load_file
from tokenizers import Tokenizer

SCRIPT = ROOT / "examples" / "serving" / "random_model.py"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300,
    "torch_dtype": "bfloat16",
}  # fmt: skip
WIDTHS = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (64, 32), "self_attn.v_proj": (64, 32),
    "self_attn.o_proj": (64, 64), "mlp.gate_proj": (64, 96), "mlp.up_proj": (64, 96), "mlp.down_proj": (96, 64),
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    command = [sys.executable, SCRIPT, folder, "--rank", "8", "--adapters", "2", "--out", folder / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"wrote {folder / 'out' / 'model'} and 2 adapters\n"
    return folder / "out"


def test_the_config_keeps_its_dimensions(served: Path) -> None:
    written = json.loads((served / "model" / "config.json").read_text())
    assert CONFIG.items() <= written.items()
    assert {"eos_token_id", "hidden_act", "max_position_embeddings"} <= written.keys()


def test_tokens_survive_decoding_and_encoding(served: Path) -> None:
    """vLLM's benchmark draws tokens, decodes them, and sends the text."""
    tokenizer = Tokenizer.from_file(str(served / "model" / "tokenizer.json"))
    tokens = [299, 3, 17, 17, 250]
    assert tokenizer.encode(tokenizer.decode(tokens)).ids == tokens
    assert tokenizer.get_vocab_size() == CONFIG["vocab_size"]


def test_each_adapter_has_every_linear_of_every_layer(served: Path) -> None:
    for number in (1, 2):
        folder = served / f"adapter-{number}"
        tensors = load_file(folder / "adapter_model.safetensors")
        expected = {}
        for layer in range(2):
            for name, (k, n) in WIDTHS.items():
                place = f"base_model.model.model.layers.{layer}.{name}"
                expected |= {f"{place}.lora_A.weight": (8, k), f"{place}.lora_B.weight": (n, 8)}
        assert {name: tensor.shape for name, tensor in tensors.items()} == expected
        described = json.loads((folder / "adapter_config.json").read_text())
        assert (described["r"], len(described["target_modules"])) == (8, len(WIDTHS))
    assert not (tensors[next(iter(tensors))] == 0).all()
