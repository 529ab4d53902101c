"""What the child makes of vLLM's LoRA manager, shown on a vLLM of a few lines."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bo_tune.engines.vllm.derived import Answer, ask
from bo_tune.errors import ModelError
from bo_tune.processes.interpreter import python_command

VLLM = {
    "__init__": '__version__ = "9.9.9"',
    "plugins": "def load_general_plugins(): print('vLLM says something')",
    "engine/arg_utils": """
        from dataclasses import dataclass
        from types import SimpleNamespace
        import torch

        @dataclass
        class EngineArgs:
            model: str
            load_format: str = "auto"
            skip_tokenizer_init: bool = False
            enforce_eager: bool = False
            enable_lora: bool = False
            max_loras: int = 1
            max_lora_rank: int = 16
            fully_sharded_loras: bool = False

            def create_engine_config(self):
                if self.model == "wrong":
                    raise ValueError("no such\\n  model")
                return SimpleNamespace(
                    parallel_config=SimpleNamespace(),
                    scheduler_config=SimpleNamespace(max_num_seqs=1, max_num_batched_tokens=1),
                    lora_config=SimpleNamespace(fully_sharded_loras=self.fully_sharded_loras, rank=self.max_lora_rank),
                    model_config=SimpleNamespace(dtype=torch.bfloat16, get_vocab_size=lambda: 100),
                )
        """,
    "distributed/parallel_state": "_TP = _EP = _PP = None",
    "config": "from contextlib import nullcontext as set_current_vllm_config",
    "model_executor/layers/linear": """
        class ColumnParallelLinear:
            tp_size = 2
            def forward(self): ...
        class Own(ColumnParallelLinear):
            tp_size = 1
            def forward(self): ...
        class RowParallelLinear:
            tp_size = 2
            def forward(self): ...
        class ReplicatedLinear: ...
        """,
    "model_executor/model_loader/utils": """
        import torch
        from types import SimpleNamespace

        class Experts(torch.nn.Module):
            routed_experts = SimpleNamespace(quant_method=SimpleNamespace())

        def initialize_model(vllm_config):
            assert torch.empty(1).device.type == "meta"
            assert torch.get_default_dtype() == torch.bfloat16
            return Experts()
        """,
    "lora/layers/fused_moe": """
        class FusedMoEKernelModularImpl: ...
        class FusedMoEWithLoRA:
            def set_mapping(self): raise AssertionError
        """,
    "lora/model_manager": """
        import torch
        from types import SimpleNamespace
        from vllm.distributed import parallel_state
        from vllm.model_executor.layers import linear

        class ColumnWithLoRA: ...
        class ColumnWithShardedLoRA: ...
        class EmbeddingWithLoRA: ...
        class LogitsProcessorWithLoRA: ...
        class FusedMoEWithLoRA: ...

        def layer(kind, base, a, b):
            made = kind()
            made.base_layer, made.lora_a_stacked, made.lora_b_stacked = base(), a, b
            return made

        def create_lora_manager(model, vllm_config, **rest):
            assert get_punica_wrapper() is not None
            assert model.routed_experts.quant_method.moe_kernel.supports_lora()
            ranks, rank = parallel_state._TP.world_size, vllm_config.lora_config.rank
            assert (parallel_state._EP.device_group.size(), parallel_state._PP.world_size) == (ranks, 1)
            column = ColumnWithShardedLoRA if vllm_config.lora_config.fully_sharded_loras else ColumnWithLoRA
            a, b = torch.zeros(1, 1, rank, 64), torch.zeros(1, 1, 32 // ranks, rank)
            modules = {
                f"model.layers.{i}.qkv": layer(column, linear.ColumnParallelLinear, (a, a), (b, b)) for i in range(3)
            }
            modules["model.layers.0.own"] = layer(ColumnWithLoRA, linear.Own, (a,), (b,))
            modules["model.layers.0.pair"] = layer(ColumnWithLoRA, linear.ColumnParallelLinear, (a,), (b,))
            modules["model.layers.0.gate"] = layer(ColumnWithLoRA, linear.ReplicatedLinear, (a,), (b,))
            modules["model.embed"] = layer(EmbeddingWithLoRA, object, torch.zeros(1, 100, rank), b)
            modules["lm_head"] = layer(LogitsProcessorWithLoRA, object, a, b)
            experts = FusedMoEWithLoRA()
            experts.w13_lora_a_stacked = (torch.zeros(1, 8, rank, 64),) * 2
            experts.w13_lora_b_stacked = (torch.zeros(1, 8, 24, rank),) * 2
            experts.w2_lora_a_stacked = (torch.zeros(1, 8, rank, 24),)
            moe = SimpleNamespace(num_experts=8, num_local_experts=8, experts_per_token=2)
            experts.base_layer = SimpleNamespace(moe_config=moe)
            modules["model.layers.1.mlp.experts"] = experts
            return SimpleNamespace(modules=modules)
        """,
}


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that behaves as far as it is asked."""
    for name, text in VLLM.items():
        file = tmp_path / "vllm" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        file.write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def asked(**more: Any) -> Answer:
    return ask({"model": "m", "tensor_parallel_size": 2, "max_lora_rank": 16, **more})


@pytest.mark.slow
@pytest.mark.usefixtures("vllm")
def test_what_the_manager_wraps_is_described() -> None:
    answer = asked()
    assert answer.version == "9.9.9"
    assert answer.wrapped == {
        ("model.layers.*.qkv", (2, 64, 16, 16, 16)),
        ("model.layers.*.own", (1, 64, 16, 16)),
        ("model.layers.*.pair", (1, 64, 16, 16)),
        ("model.layers.*.gate", (1, 64, 16, 16)),
        ("model.embed", (1, 0, 0, 16)),
        ("lm_head", (1, 64, 16, 16)),
    }
    adds = {layer.name: (layer.adds(dual_stream=True), layer.per_sequence) for layer in answer.held(16)}
    assert adds == {
        "qkv": ((False,), False), "own": ((True,), False), "pair": ((False,), False), "gate": ((True,), False),
        "embed": ((True,), False), "lm_head": ((True,), True),
    }  # fmt: skip
    assert answer.expert_sizes == (2, 16, 16, 64, 24, 24, 8, 8, 2)
    sharded = {layer.name: layer for layer in asked(fully_sharded_loras=True).held(32)}
    assert sharded["qkv"].dual_stream_adds == (True,)
    assert sharded["qkv"].shrink_n(32) == 16
    assert sharded["own"].dual_stream_adds == (True,)
    assert sharded["pair"].dual_stream_adds == (True, False)


@pytest.mark.slow
@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "wrong"}, "--derive engine: ValueError: no such model$"),
        ({"enable_moe_magic": True}, "--derive engine: ValueError: this vLLM has no --enable-moe-magic"),
    ],
)
def test_what_vllm_refuses_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        asked(**options)


@pytest.mark.slow
@pytest.mark.usefixtures("vllm")
def test_stdout_is_the_answer_alone() -> None:
    options = json.dumps({"model": "m", "tensor_parallel_size": 1, "max_lora_rank": 16})
    command = python_command("bo_tune.kernels.vllm.wrapped", options)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["version"] == "9.9.9"
    assert "vLLM says something" in done.stderr
