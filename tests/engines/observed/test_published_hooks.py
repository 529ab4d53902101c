"""The plugin on the modules of the published vLLM, without an engine: what is watched is there and is recorded."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest
from observed_engine import lines, serve
from vllm_wheel import VERSION, vllm_folder

from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.engines.vllm.observed.problems import families
from bo_tune.engines.vllm.observed.reading import read_observed

DENSE = """
observe()
import torch
import vllm.lora.ops.triton_ops.lora_shrink_op as shrinks, vllm.lora.ops.triton_ops.lora_expand_op as expands

class Unlaunched:
    def __getitem__(self, grid):
        return lambda *arguments, **more: None

shrinks._lora_shrink_kernel = expands._lora_expand_kernel = Unlaunched()

def of(*shape, dtype=torch.bfloat16):
    return torch.zeros(*shape, dtype=dtype)

def metadata(m, slots=5):
    groups = [of(n, dtype=torch.int32) for n in (m, m, slots, slots + 1, slots)]
    return [*groups, torch.tensor([False]), torch.tensor([slots])]

for m in (1, 16, 16):
    shrinks.lora_shrink(of(m, 64), [of(4, 1, 16, 64)] * 3, of(3, m, 16, dtype=torch.float32), *metadata(m), 1.0)
    weights = [of(4, 1, width, 16) for width in (64, 16, 16)]
    for adds in (True, False):
        expands.lora_expand(of(3, m, 16, dtype=torch.float32), weights, of(m, 96), *metadata(m), add_inputs=adds)
"""

EXPERTS = """
import types
import vllm.lora.ops.triton_ops.utils
observe()
import torch

def module(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)

module("vllm.model_executor.layers.fused_moe.config", _get_config_dtype_str=lambda **flags: None)
def try_get_optimal_moe_config(*asked):
    return {"BLOCK_SIZE_M": 64}

def next_power_of_2(n):
    return 1 << (n - 1).bit_length()

%s
module("vllm.lora.layers.utils", try_get_optimal_moe_lora_config=try_get_optimal_moe_lora_config)
from bo_tune.engines.vllm.observed import hooks
for change in [one for one in sys.meta_path if type(one).__name__ == "AfterImport"]:
    change.install()

class Punica:
    def moe_lora_align_block_size(self, *arguments, **more):
        return None, None, None, None
    def add_lora_fused_moe(self, *arguments, **more):
        pass
%s

def of(*shape):
    return torch.zeros(*shape, dtype=torch.bfloat16)

def layer(m, tuned, *, slices=2, i=96, shards=1, experts=8, local=8, rank=32, hidden=64):
    a13, b13 = [of(4, local, rank // shards, hidden)] * slices, [of(4, local, i, rank)] * slices
    a2, b2 = [of(4, local, rank, i // (2 if slices == 1 else 1))], [of(4, local, hidden // shards, rank)]
    x, y, w1, w2 = of(m, hidden), of(m, 2, hidden), of(local, 2, hidden), of(local, hidden, 96)
    chosen, weights = torch.zeros(m, 2, dtype=torch.int32), torch.zeros(m, 2)
    held = torch.zeros(experts, dtype=torch.int32) if local < experts else None
    enabled, sharded = torch.ones(5, dtype=torch.int32), shards > 1
    Punica().add_lora_w13(
        of(m, 2, slices * i), x, a13, b13, chosen, weights, held, w1, w2, m, 2, 4, enabled, local, 2, slices, sharded,
        tuned)
    Punica().add_lora_w2(
        y, of(m * 2, a2[0].shape[-1]), a2, b2, weights, None, None, None, None, m, w1, w2, 2, 4, enabled, 2, sharded,
        0, tuned)
"""


def source(names: Iterable[str], path: str, *, owner: str = "", indent: int = 0) -> str:
    """Return the text of some functions of a module, or of a class in it."""
    text = (vllm_folder() / path).read_text()
    tree: ast.AST = ast.parse(text)
    if owner:
        (tree,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == owner]
    found = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    body = "\n".join(ast.unparse(found[name]) for name in names)
    return "\n".join(" " * indent + line for line in body.splitlines())


def test_all_that_is_watched_is_there(tmp_path: Path) -> None:
    assert serve(vllm_folder(), "observe()\n", tmp_path / "l.jsonl") == ""


def test_dense_launches_tell_their_slices(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    serve(vllm_folder(), DENSE, tmp_path / "l.jsonl")
    observed = read_observed(tmp_path / "l.jsonl")
    assert observed.engine_version == VERSION
    assert observed.gpu is None
    found = {family.problem: family.counts for family in families(observed)}
    expand = {"kernel": "lora_expand", "k": 16, "n": 64, "slice_sizes": (64, 16, 16)}
    common = {"max_loras": 4, "num_slices": 3, "m": 1}
    assert set(found) == {
        LoraProblem("lora_shrink", **common, k=64, n=16),
        LoraProblem(**expand, **common, add_inputs=True),
        LoraProblem(**expand, **common, add_inputs=False),
    }
    assert all(set(counts) == {1, 16} for counts in found.values())


WAYS = {
    "experts": ({}, Experts(8, 2), (2, 32, 96), 32),
    "fully sharded": ({"rank": 64, "shards": 2}, Experts(8, 2, shards=2), (2, 32, 96), 64),
    "gate and up in one, on some experts": ({"slices": 1, "i": 192, "local": 4}, Experts(8, 2, 4, packed=True),
                                            (1, 32, 192), 32),
}  # fmt: skip
"""Arguments of ``layer``; the experts they are, w13's slices, k and i, and w2's k."""


@pytest.mark.parametrize("way", WAYS)
def test_experts_are_the_same_with_a_folder_of_tuned_files_and_without(tmp_path: Path, way: str) -> None:
    pytest.importorskip("triton")
    arguments, experts, (slices, k13, i13), k2 = WAYS[way]
    methods = source(
        ("add_lora_w13", "add_lora_w2"), "vllm/lora/punica_wrapper/punica_gpu.py", owner="PunicaWrapperGPU", indent=4
    )
    function = source(("try_get_optimal_moe_lora_config",), "vllm/lora/layers/utils.py")
    expected = {
        problem: {8, 16}
        for half in ("shrink", "expand")
        for problem in (
            LoraProblem(f"fused_moe_lora_w13_{half}", 4, slices, 8, k13, 64, i13, experts=experts),
            LoraProblem(f"fused_moe_lora_w2_{half}", 4, 1, 8, k2, 64, 96, experts=experts),
        )
    }
    for tuned in (True, False):
        script = "from __future__ import annotations\n" + EXPERTS % (function, methods)
        script += "".join(f"layer({m}, {tuned}, **{arguments})\n" for m in (8, 16))
        folder = tmp_path / str(tuned)
        folder.mkdir()
        serve(vllm_folder(), f"exec({script!r})\n", folder / "l.jsonl")
        assert {line["lookup"] for line in lines(folder)[0]} == {"lora" if tuned else "untuned_lora"}
        found = {family.problem: set(family.counts) for family in families(read_observed(folder / "l.jsonl"))}
        assert found == expected


OTHERS = """
import functools, types
from types import SimpleNamespace
import vllm.envs

def module(name, text, **members):
    made = sys.modules[name] = types.ModuleType(name)
    vars(made).update(members)
    exec("from __future__ import annotations\\n" + text, vars(made))
    return made

fused = module("vllm.model_executor.layers.fused_moe.fused_moe", EXPERTS, get_moe_configs=lambda *asked: {8: {"a": 1}})
sys.modules["vllm.model_executor.layers.fused_moe"] = SimpleNamespace(get_config=lambda: None)
mamba = module("vllm.model_executor.layers.mamba.ops.mamba_ssm", MAMBA, functools=functools, _ssm_config_override=None,
               get_ssm_configs=lambda *asked: None)
runner = module("vllm.v1.worker.gpu_model_runner", "class GPUModelRunner:\\n" + PADDING + '''
    lora_config = True
    def execute_model(self, scheduler_output, intermediate_tensors=None):
        tokens = scheduler_output.total_num_scheduled_tokens
        return self._determine_batch_execution_and_padding(tokens, 2, None, 1)
''')
observe()
assert fused.try_get_optimal_moe_config((8, 64, 32), (8, 32, 32), 2, None, 16) == {"a": 1}
assert mamba.try_get_optimal_ssm_config(64, 128, 4, 8, "float32", False) == (4, 4)
one = runner.GPUModelRunner()
one.uniform_decode_query_len, one._is_uniform_decode = 1, lambda **asked: True
one.model_config = SimpleNamespace(is_encoder_decoder=False)
one.input_batch = SimpleNamespace(lora_id_to_lora_request={1: "a", 2: "b", 3: "c"})
one.cudagraph_dispatcher = SimpleNamespace(dispatch=lambda num_tokens, **asked: (None, SimpleNamespace(num_tokens=24)))
one.vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(data_parallel_size=1),
                                  observability_config=SimpleNamespace(cudagraph_metrics=False))
for _ in range(2):
    assert one.execute_model(step(9, 8))[1].num_tokens == 24
"""


def test_experts_mamba_and_padded_steps_of_the_published_functions(tmp_path: Path) -> None:
    texts = {
        "EXPERTS": source(("try_get_optimal_moe_config",), "vllm/model_executor/layers/fused_moe/fused_moe.py"),
        "MAMBA": source(
            ("_get_default_ssm_launch_config", "_try_get_optimal_ssm_config_cached", "try_get_optimal_ssm_config"),
            "vllm/model_executor/layers/mamba/ops/mamba_ssm.py",
        ),
        "PADDING": source(
            ("_determine_batch_execution_and_padding",), "vllm/v1/worker/gpu_model_runner.py", owner="GPUModelRunner",
            indent=4,
        ),
    }  # fmt: skip
    defined = "".join(f"{name} = {text!r}\n" for name, text in texts.items())
    assert serve(vllm_folder(), defined + OTHERS, tmp_path / "l.jsonl") == ""
    experts, mamba, steps = lines(tmp_path)[0]
    assert experts["arguments"] == {
        "w1_shape": [8, 64, 32], "w2_shape": [8, 32, 32], "top_k": 2, "dtype": None, "M": 16, "block_shape": None,
    }  # fmt: skip
    assert mamba["arguments"] == {
        "headdim": 64, "dstate": 128, "batch": 4, "nheads": 8, "cache_dtype": "float32", "is_blackwell": False,
    }  # fmt: skip
    assert steps == {"step": {"tokens": 17, "padded": 24, "sequences": 2, "adapters": 3}, "count": 2}


@pytest.mark.parametrize(
    ("path", "used"),
    [
        ("vllm/v1/worker/gpu_model_runner.py",
         ("self.lora_config", "scheduler_output.total_num_scheduled_tokens", "scheduler_output.num_scheduled_tokens",
          "self.input_batch.lora_id_to_lora_request", "self._determine_batch_execution_and_padding(")),
        ("vllm/v1/worker/gpu/model_runner.py",
         ("self.lora_config", "scheduler_output.total_num_scheduled_tokens", "scheduler_output.num_scheduled_tokens",
          "self.lora_state", "batch_desc, dp_sync_state = dispatch_cg_and_sync_dp(", "dummy_run: bool = False")),
        ("vllm/lora/model_manager.py", ("self.modules: dict[str, BaseLayerWithLoRA]", "self._create_lora_modules()")),
    ],
)  # fmt: skip
def test_what_the_plugin_reads_of_its_objects_is_there(path: str, used: tuple[str, ...]) -> None:
    text = (vllm_folder() / path).read_text()
    assert [words for words in used if words not in text] == []
