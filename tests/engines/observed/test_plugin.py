"""The plugin in an engine's processes: what it records, what a kill leaves, and that it breaks nothing."""

import signal
from pathlib import Path

import pytest
from helpers import ROOT
from observed_engine import installed, lines, serve

from bo_tune.engines.vllm.observed.reading import Step, read_observed

SHRINK = "vllm.lora.ops.triton_ops.lora_shrink_op"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder to import the engine from."""
    return installed(tmp_path / "site")


def test_nothing_happens_unless_a_file_is_named(site: Path, tmp_path: Path) -> None:
    script = f"""
before, finders = set(sys.modules), list(sys.meta_path)
observe()
import {SHRINK} as op
op.shrink(16)
print(sorted(name for name in set(sys.modules) - before if "bo_tune" in name), sys.meta_path == finders)
print(op.get_lora_op_configs.cache_info().currsize, hasattr(op.get_lora_op_configs.__wrapped__, "__wrapped__"))
print(sorted(name for name in sys.modules if name.startswith("bo_tune")))
"""
    for unset in (None, ""):
        nothing, cached, loaded = serve(site, script, unset).splitlines()
        assert nothing == "[] True"
        assert cached == "1 False"
        package = "bo_tune.engines.vllm.observed"
        assert loaded == str(
            ["bo_tune", "bo_tune.engines", "bo_tune.engines.vllm", package, f"{package}.names", f"{package}.plugin"]
        )
    assert list(tmp_path.glob("*.jsonl")) == []


def test_it_loads_the_standard_library_alone(site: Path, tmp_path: Path) -> None:
    script = """
observe()
roots = {name.partition(".")[0] for name in sys.modules}
print(sorted(roots - set(sys.stdlib_module_names) - {"vllm", "bo_tune", "__main__", "_distutils_hack"}))
"""
    loaded = serve(site, script, tmp_path / "l.jsonl").splitlines()[0]
    assert [name for name in eval(loaded) if not name.startswith(("_", "__editable__", "sitecustomize"))] == []


def test_the_entry_point_is_the_one_that_engines_call() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points."vllm.general_plugins"]' in text
    assert 'bo_tune_lookups = "bo_tune.engines.vllm.observed.plugin:observe"' in text


@pytest.mark.parametrize("imported", ["before", "after"])
def test_a_lookup_is_written_once_and_then_counted(site: Path, tmp_path: Path, imported: str) -> None:
    load = f"import {SHRINK} as op"
    script = f"""
{load if imported == "before" else ""}
observe(); observe()
{load}
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
for m in (16, 16, 8):
    assert op.shrink(m) == {{"block_m": 16}}
print(op.get_lora_op_configs.cache_info().hits)
GPUModelRunner().execute_model(step(3, 4, adapters=2))
"""
    assert serve(site, script, tmp_path / "l.jsonl").splitlines() == ["1"]
    (found,) = lines(tmp_path)
    assert [(one.get("arguments", {}).get("batch"), one["count"]) for one in found] == [(16, 2), (8, 1), (None, 1)]
    assert found[0]["arguments"] == {
        "op_type": "shrink", "max_loras": 5, "batch": 16, "hidden_size": 64, "rank": 16, "num_slices": 2,
        "add_inputs": None, "moe_intermediate_size": None,
    }  # fmt: skip
    assert found[0]["launch"] == {"shapes": {"lora_a_weights": [[4, 1, 16, 64]] * 2}, "dtype": "bfloat16"}
    assert "launch" not in found[1], "the same launches, at another m"
    observed = read_observed(tmp_path / "l.jsonl")
    assert observed.dual_stream
    assert observed.steps == {Step(tokens=7, padded=8, sequences=2, adapters=2): 1}


def test_experts_mamba_and_layers_are_recorded(site: Path, tmp_path: Path) -> None:
    script = """
observe()
from vllm.model_executor.layers.fused_moe.fused_moe import try_get_optimal_moe_config as experts
from vllm.model_executor.layers.mamba.ops.mamba_ssm import try_get_optimal_ssm_config as mamba
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.ops.triton_ops.lora_shrink_op import Tensor
for _ in range(2):
    experts((8, 64, 32), (8, 32, 32), top_k=2, dtype="fp8_w8a8", M=16, block_shape=[128, 128])
assert mamba(64, 128, batch=4, nheads=8, cache_dtype="float32", is_blackwell=False) == (4, 8)
common = {"base_layer": SimpleNamespace(weight=Tensor(32, 64)), "lora_a_stacked": (Tensor(4, 1, 16, 64),)}
made = lambda *shape: SimpleNamespace(**common, lora_b_stacked=Tensor(*shape))
down = {f"model.layers.{i}.mlp.down_proj": made(4, 1, 32, 16) for i in range(3)}
LoRAModelManager(down | {"lm_head": made(4, 1, 9, 16)})
"""
    serve(site, script, tmp_path / "l.jsonl")
    experts, mamba, down, head = lines(tmp_path)[0]
    assert (experts["lookup"], experts["arguments"]) == (
        "experts",
        {"w1_shape": [8, 64, 32], "w2_shape": [8, 32, 32], "top_k": 2, "dtype": "fp8_w8a8", "M": 16,
         "block_shape": [128, 128]},
    )  # fmt: skip
    assert (mamba["lookup"], mamba["arguments"]["batch"], mamba["arguments"]["nheads"]) == ("mamba", 4, 8)
    assert (down["layer"]["name"], down["count"]) == ("model.layers.*.mlp.down_proj", 3)
    assert down["layer"]["weights"] == "bfloat16"
    assert head["layer"]["shapes"] == {"lora_a_stacked": [[4, 1, 16, 64]], "lora_b_stacked": [[4, 1, 9, 16]]}


def test_steps_of_the_newer_runner_are_counted_but_not_its_dummies(site: Path, tmp_path: Path) -> None:
    script = """
observe()
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
runner = GPUModelRunner()
for _ in range(3):
    assert runner.execute_model(scheduler_output=step(1, 1, 1, adapters=2)) == "output"
runner.execute_model(step(9), dummy_run=True)
runner.execute_model(step(9), None, True)
runner.execute_model(step())
"""
    serve(site, script, tmp_path / "l.jsonl")
    assert read_observed(tmp_path / "l.jsonl").steps == {Step(tokens=3, padded=16, sequences=3, adapters=2): 3}


def test_a_kill_loses_no_lookup_and_no_step(site: Path, tmp_path: Path) -> None:
    script = f"""
observe()
import {SHRINK} as op
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
runner = GPUModelRunner()
for m in range(1, 101):
    op.shrink(m)
for _ in range(1234):
    op.shrink(7)
    runner.execute_model(step(1, 1))
op.shrink(999)
os.kill(os.getpid(), signal.SIGKILL)
"""
    serve(site, script, tmp_path / "l.jsonl", code=-signal.SIGKILL)
    observed = read_observed(tmp_path / "l.jsonl")
    assert [one.arguments["batch"] for one in observed.lookups] == [*range(1, 101), 999]
    assert {one.arguments["batch"]: one.count for one in observed.lookups}[7] == 1235
    assert observed.steps == {Step(2, 8, 2, 0): 1234}


def test_each_process_has_its_own_file_forked_ones_too(site: Path, tmp_path: Path) -> None:
    script = f"""
observe()
import {SHRINK} as op
op.shrink(1)
if child := os.fork():
    os.waitpid(child, 0)
op.shrink(2)
"""
    for _ in range(2):
        serve(site, script, tmp_path / "l.jsonl")
    found = [[one["arguments"]["batch"] for one in file] for file in lines(tmp_path)]
    assert sorted(found) == [[1, 2], [1, 2], [2], [2]]
    assert len(read_observed(tmp_path / "l.jsonl").files) == 4


def test_a_file_that_is_there_is_not_overwritten(site: Path, tmp_path: Path) -> None:
    script = f"""
observe()
open(f"{tmp_path}/l.{{os.getpid()}}.jsonl", "w").close()
import {SHRINK} as op
op.shrink(1)
"""
    serve(site, script, tmp_path / "l.jsonl")
    sizes = {file.stem.partition("-")[2]: file.stat().st_size for file in tmp_path.glob("*.jsonl")}
    assert sizes[""] == 0
    assert sizes["2"] > 0


@pytest.mark.parametrize(
    ("breaks", "what"),
    [
        ("from bo_tune.engines.vllm.observed import hooks; hooks._launch = None", "'NoneType' object is not callable"),
        ("os.pwrite = None", "'NoneType' object is not callable"),
    ],
)
def test_an_error_inside_is_logged_once_and_switches_it_off(site: Path, tmp_path: Path, breaks: str, what: str) -> None:
    script = f"""
observe()
import {SHRINK} as op
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
{breaks}
for m in (1, 2, 3):
    assert op.shrink(m) == {{"block_m": 16}}
    assert GPUModelRunner().execute_model(step(1)) == "output"
"""
    told = [line for line in serve(site, script, tmp_path / "l.jsonl").splitlines() if "bo_tune" in line]
    assert told == [f"WARNING:vllm.bo_tune:bo_tune: stopped recording lookups: TypeError: {what}"]


def test_a_folder_that_is_not_there_switches_it_off(site: Path, tmp_path: Path) -> None:
    script = f"observe()\nimport {SHRINK} as op\nop.shrink(1), op.shrink(2)\n"
    (told,) = serve(site, script, tmp_path / "none" / "l.jsonl").splitlines()
    assert "stopped recording lookups: FileNotFoundError" in told


def test_the_engines_own_errors_are_its_own(site: Path, tmp_path: Path) -> None:
    script = """
observe()
from vllm.lora.ops.triton_ops.utils import get_lora_op_configs
for wrong in (lambda: get_lora_op_configs("other", 1, 1, 1, 1, 1), lambda: get_lora_op_configs("shrink")):
    try:
        wrong()
    except (AssertionError, TypeError) as error:
        print(type(error).__name__, error)
"""
    told = serve(site, script, tmp_path / "l.jsonl").splitlines()
    assert told[0] == "AssertionError other"
    assert any(line.startswith("TypeError get_lora_op_configs() missing 5 required") for line in told)


def test_what_a_version_does_not_have_is_named_in_one_line(tmp_path: Path) -> None:
    site = installed(tmp_path / "site", without="get_lora_op_configs")
    (told,) = serve(site, "observe()\n", tmp_path / "l.jsonl").splitlines()
    assert told == (
        "WARNING:vllm.bo_tune:bo_tune: vLLM 9.9 does not have these, so they are not observed: get_lora_op_configs"
    )
    site = installed(tmp_path / "later", without="execute_model")
    (site / "vllm" / "lora" / "model_manager.py").unlink()
    (told,) = serve(site, "observe()\n", tmp_path / "l.jsonl").splitlines()
    assert told.endswith("LoRAModelManager._create_lora_modules, GPUModelRunner.execute_model")


def test_an_import_that_fails_is_the_engines_own(site: Path, tmp_path: Path) -> None:
    (site / "vllm" / "lora" / "layers" / "utils.py").write_text(
        "def try_get_optimal_moe_lora_config(M): ...\nraise ImportError('of its own')\n"
    )
    script = """
observe()
for _ in range(2):
    try:
        import vllm.lora.layers.utils
    except ImportError as error:
        print(error)
import inspect, vllm.lora.ops.triton_ops.utils as utils
print(inspect.getsource(utils.get_lora_op_configs).splitlines()[0], utils.__spec__.loader.name)
"""
    assert serve(site, script, tmp_path / "l.jsonl").splitlines() == [
        "of its own",
        "of its own",
        "@lru_cache vllm.lora.ops.triton_ops.utils",
    ]


def test_it_costs_microseconds(site: Path, tmp_path: Path) -> None:
    script = f"""
import timeit
observe()
import {SHRINK} as op
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
runner, one = GPUModelRunner(), step(*[1] * 256)
def cost(call, plain):
    return (min(timeit.repeat(call, number=2000, repeat=5)) - min(timeit.repeat(plain, number=2000, repeat=5))) / 2000
print(cost(lambda: op.shrink(16), lambda: op.shrink.__globals__["get_lora_op_configs"].__wrapped__(
    "shrink", max_loras=5, batch=16, hidden_size=64, rank=16, num_slices=2)))
print(cost(lambda: runner.execute_model(one), lambda: GPUModelRunner.execute_model.__wrapped__(runner, one)))
"""
    lookup_s, step_s = map(float, serve(site, script, tmp_path / "l.jsonl").splitlines())
    assert lookup_s < 20e-6
    assert step_s < 50e-6
