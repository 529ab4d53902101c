"""An engine to observe: a package ``vllm`` with the functions that the plugin watches and nothing else, and processes
that serve with it. No torch."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers import ROOT

MODULES: Mapping[str, str] = {
    "__init__": "__version__ = '9.9'\n",
    "envs": "VLLM_LORA_ENABLE_DUAL_STREAM = True\n",
    "lora/ops/triton_ops/utils": """
from functools import lru_cache

@lru_cache
def get_lora_op_configs(op_type, max_loras, batch, hidden_size, rank, num_slices, add_inputs=None,
                        moe_intermediate_size=None):
    assert op_type in ("shrink", "expand"), op_type
    return {"block_m": 16}
""",
    "lora/ops/triton_ops/lora_shrink_op": """
from vllm.lora.ops.triton_ops.utils import get_lora_op_configs

class Tensor:
    dtype = "torch.bfloat16"
    def __init__(self, *shape):
        self.shape = shape

def shrink(m, k=64, slices=2):
    lora_a_weights = [Tensor(4, 1, 16, k)] * slices
    return get_lora_op_configs("shrink", max_loras=5, batch=m, hidden_size=k, rank=16, num_slices=slices)
""",
    "lora/layers/utils": "def try_get_optimal_moe_lora_config(op_type, M):\n    return {}\n",
    "lora/model_manager": """
class LoRAModelManager:
    def __init__(self, modules):
        self.found, self.modules = modules, {}
        self._create_lora_modules()
    def _create_lora_modules(self):
        self.modules.update(self.found)
""",
    "model_executor/layers/fused_moe/fused_moe": """
def try_get_optimal_moe_config(w1_shape, w2_shape, top_k, dtype, M, block_shape=None):
    return {}
""",
    "model_executor/layers/mamba/ops/mamba_ssm": """
def try_get_optimal_ssm_config(headdim, dstate, batch, nheads, cache_dtype, is_blackwell):
    return 4, 8
""",
    "v1/worker/gpu_model_runner": """
from types import SimpleNamespace

class GPUModelRunner:
    lora_config = object()
    def __init__(self):
        self.input_batch = SimpleNamespace(lora_id_to_lora_request={})
    def _determine_batch_execution_and_padding(self, num_tokens):
        return None, SimpleNamespace(num_tokens=-(-num_tokens // 8) * 8)
    def execute_model(self, scheduler_output, intermediate_tensors=None):
        self.input_batch.lora_id_to_lora_request = scheduler_output.adapters
        self._determine_batch_execution_and_padding(scheduler_output.total_num_scheduled_tokens)
        return "output"
""",
    "v1/worker/gpu/model_runner": """
from types import SimpleNamespace

def dispatch_cg_and_sync_dp(num_tokens):
    return SimpleNamespace(num_tokens=-(-num_tokens // 16) * 16), None

class GPUModelRunner:
    lora_config = object()
    def __init__(self):
        self.lora_state = SimpleNamespace(lora_requests={})
    def execute_model(self, scheduler_output, intermediate_tensors=None, dummy_run=False):
        self.lora_state.lora_requests = {
            name: SimpleNamespace(lora_int_id=number) for number, name in scheduler_output.adapters.items()
        }
        dispatch_cg_and_sync_dp(scheduler_output.total_num_scheduled_tokens)
        return "output"
""",
}

BEGIN = """
import logging, os, signal, sys
from types import SimpleNamespace
logging.basicConfig()
import vllm.envs
from bo_tune.engines.vllm.observed.plugin import observe

def step(*tokens, adapters=()):
    requests = {f"r{i}": n for i, n in enumerate(tokens)}
    return SimpleNamespace(num_scheduled_tokens=requests, total_num_scheduled_tokens=sum(tokens),
                           adapters={i + 1: f"r{i}" for i in range(adapters)} if adapters else {})
"""


def installed(folder: Path, *, without: str = "") -> Path:
    """Write the package into a folder, without the functions of some name; return the folder."""
    for name, text in MODULES.items():
        path = folder / "vllm" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(f"def {without}(", f"def other_{without}(") if without else text)
    return folder


def serve(site: Path, script: str, lookups: Path | str | None, code: int = 0) -> str:
    """Run a process of the engine, and return what it printed and logged.

    Args:
        lookups: value of ``BO_TUNE_LOOKUPS``; None to leave it unset.
        code: how it should end.
    """
    environment = {name: value for name, value in os.environ.items() if name != "BO_TUNE_LOOKUPS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), str(ROOT)])
    if lookups is not None:
        environment["BO_TUNE_LOOKUPS"] = str(lookups)
    ran = subprocess.run(
        [sys.executable, "-c", BEGIN + script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == code, ran.stderr
    return ran.stdout + ran.stderr


def lines(folder: Path) -> list[list[Any]]:
    """Return what stands in each file of a folder, file by file, without the headers."""
    files = sorted(folder.glob("*.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()[1:]] for file in files]


def header(**more: Any) -> dict[str, Any]:
    """Return the first line of a file."""
    return {
        "format": "bo_tune lookups", "version": 1, "engine": "vLLM", "engine_version": "0.33.0",
        "gpu": "NVIDIA H100 80GB HBM3", "process": "host:1", "started": "2026-01-01T00:00:00Z", "dual_stream": False,
        "batch_invariant": False, **more,
    }  # fmt: skip


def shrink(m: int, k: int = 4096, *, slices: int = 1, count: int = 1) -> dict[str, Any]:
    """Return the line of a dense shrink lookup."""
    return _lora("shrink", m, k, slices, count, {"lora_a_weights": [[4, 1, 16, k]] * slices})


def expand(m: int, *widths: int, adds: bool = True, count: int = 1) -> dict[str, Any]:
    """Return the line of a dense expand lookup."""
    shapes = {"lora_b_weights": [[4, 1, width, 16] for width in widths]}
    return _lora("expand", m, max(widths), len(widths), count, shapes, add_inputs=adds)


def _lora(op: str, m: int, size: int, slices: int, count: int, shapes: Any, **more: Any) -> dict[str, Any]:
    asked = {"op_type": op, "max_loras": 5, "batch": m, "hidden_size": size, "rank": 16, "num_slices": slices}
    arguments = {**asked, "add_inputs": None, "moe_intermediate_size": None, **more}
    launch = {"shapes": shapes, "dtype": "bfloat16"}
    return {"lookup": "lora", "arguments": arguments, "launch": launch, "count": count}


def experts(m: int, *, slices: int = 2, i: int = 768, count: int = 1) -> list[dict[str, Any]]:
    """Return the lines of the four lookups of a layer's experts: 128 of width 768, 8 for each token, rank 16."""
    found = []
    for part, wide, shapes in (
        ("w13", i, {"lora_a_stacked": [[4, 128, 16, 2048]] * slices, "lora_b_stacked": [[4, 128, i, 16]] * slices}),
        (
            "w2",
            768,
            {"lora_a_stacked": [[4, 128, 16, 768]], "lora_b_stacked": [[4, 128, 2048, 16]], "y": [[m, 8, 2048]]},
        ),
    ):
        for half in ("shrink", "expand"):
            asked = {"op_type": f"fused_moe_lora_{part}_{half}", "max_loras": 4, "batch": m, "hidden_size": 2048}
            sizes = {"rank": 16, "num_slices": slices if part == "w13" else 1, "moe_intermediate_size": wide}
            launch = {"shapes": shapes, "dtype": "bfloat16", "top_k": 8}
            arguments = {**asked, **sizes, "add_inputs": None}
            found.append({"lookup": "lora", "arguments": arguments, "launch": launch, "count": count})
    return found


def layer(name: str, a: list[list[int]], b: list[list[int]], count: int = 32) -> dict[str, Any]:
    """Return the line of a kind of layer."""
    shapes = {"lora_a_stacked": a, "lora_b_stacked": b}
    return {"layer": {"name": name, "class": "WithLoRA", "weights": "bfloat16", "shapes": shapes}, "count": count}


def steps(tokens: int, padded: int, sequences: int, adapters: int, count: int = 1) -> dict[str, Any]:
    """Return the line of a size of steps."""
    sizes = {"tokens": tokens, "padded": padded, "sequences": sequences, "adapters": adapters}
    return {"step": sizes, "count": count}


def written(path: Path, *documents: dict[str, Any], **head: Any) -> Path:
    """Write a file with these lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in (header(**head), *documents)))
    return path
