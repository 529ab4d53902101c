"""Other versions of vLLM: what the adapter can do with them, and how it refuses the rest. None is installed here."""

import subprocess
import sys

import pytest
import torch
from vllm_wheel import importable

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.errors import InputError
from bo_tune.kernels.vllm import operations
from bo_tune.kernels.vllm.installed import LAUNCHERS, VllmError, unavailable

H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)
PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
CONFIG = {"block_m": 16, "num_warps": 4, "num_stages": 3}

LAUNCHER = """
import triton
from vllm.lora.ops.triton_ops.utils import current_platform, get_lora_op_configs


@triton.jit
def a_kernel(x, M, BLOCK_M):
    pass


def _lora_shrink(
    inputs,
    lora_a_weights,
    output_tensor,
    token_lora_mapping,
    token_indices_sorted_by_lora_ids,
    num_tokens_per_lora,
    lora_token_start_loc,
    lora_ids,
    scaling,
):
    M, K = inputs.shape
    N = lora_a_weights[0].shape[-2]
    config = get_lora_op_configs(
        "shrink", lora_ids.size(0), batch=M, hidden_size=K, rank=N, num_slices=len(lora_a_weights)
    )
    stages = 1 if current_platform.is_device_capability((9, 0)) else config["num_stages"]
    a_kernel[(M, 1)](inputs, M, config["block_m"], num_warps=config["num_warps"], num_stages=stages)
"""
"""A version whose launcher does without two arguments and one config key of today's."""

UTILS = """
import functools

current_platform = None


@functools.lru_cache
def get_lora_op_configs(op_type, max_loras, batch, hidden_size, rank, num_slices, add_inputs=None):
    raise NotImplementedError
"""


@pytest.fixture
def install(tmp_path):
    """Return a function that makes a vLLM importable, given changes to the launcher's text."""
    installed = []

    def install(*changes, init="__version__ = '9.8.7'\n"):
        launcher = LAUNCHER
        for old, new in changes:
            assert old in launcher
            launcher = launcher.replace(old, new)
        folder = tmp_path / "vllm/lora/ops/triton_ops"
        folder.mkdir(parents=True)
        for package in (folder, *list(folder.parents)[:2]):
            (package / "__init__.py").touch()
        (tmp_path / "vllm/__init__.py").write_text(init)
        (folder / "lora_shrink_op.py").write_text(launcher)
        (folder / "utils.py").write_text(UTILS)
        installed.append(importable(tmp_path))
        installed[-1].__enter__()

    yield install
    for each in installed:
        each.__exit__(None, None, None)


def shrink():
    return operations.operation("lora_shrink")


def refusal():
    """The one line with which a config is refused."""
    with pytest.raises(VllmError) as caught:
        shrink().effective_config(PROBLEM, CONFIG, H100)
    assert isinstance(caught.value, InputError)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("vllm 9.8.7: ")
    return text


def test_a_version_with_other_arguments_is_launched_as_it_launches_itself(install):
    install()
    assert shrink().source == "vllm 9.8.7"
    assert shrink().effective_config(PROBLEM, CONFIG, H100) == {"block_m": 16, "num_warps": 4, "num_stages": 1}
    a100 = GpuInfo("NVIDIA A100", (8, 0), sm_count=108, shared_memory_bytes=166912)
    assert shrink().effective_config(PROBLEM, CONFIG, a100) == CONFIG
    call = shrink().capture_without_inputs(PROBLEM, CONFIG, (8, 0))
    assert (call.grid, call.options) == ((16, 1), {"num_warps": 4, "num_stages": 3})
    assert call.parameters["x"].shape == (16, 4096)


def test_a_parameter_that_goes_where_it_is_not_seen_still_tells_configs_apart(install):
    install(("BLOCK_M", "TILE"), ("num_stages=stages", "num_stages=5"))
    other = {**CONFIG, "block_m": 32}
    assert shrink().effective_config(PROBLEM, CONFIG, H100) == {**CONFIG, "num_stages": 5}
    assert shrink().effective_config(PROBLEM, other, H100) == {**other, "num_stages": 5}
    assert shrink().effective_config(PROBLEM, {**CONFIG, "num_stages": 4, "unused": 1}, H100)["num_stages"] == 5
    assert "unused" not in shrink().effective_config(PROBLEM, {**CONFIG, "unused": 1}, H100)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("def _lora_shrink(", "def _lora_shrink_v2(")], "lora_shrink_op has no _lora_shrink"),
        ([("get_lora_op_configs", "find_configs"), ("find_configs\n", "get_lora_op_configs as find_configs\n")], "get"),
        ([("    scaling,\n", "    scaling,\n    layer_name,\n")], "it needs layer_name"),
        ([("    scaling,\n", "")], "it has no parameter scaling"),
        (
            [("batch=M", "batch=2 * M")],
            "it looks its config up under [{'op_type': 'shrink', 'max_loras': 5, 'batch': 32",
        ),
        (
            [('config["num_warps"]', "8 if get_lora_op_configs('shrink', 1, 2, 3, 4, 5) else 4")],
            "instead of once under",
        ),
        (
            [("    a_kernel[", "    a_kernel[(1,)](inputs, M, 16)\n    a_kernel[")],
            "launches 2 kernels instead of one; unset VLLM_",
        ),
        ([("    a_kernel[", "    lambda: a_kernel[")], "launches 0 kernels instead of one; --kernels"),
        ([("inputs, M, config", "inputs, config")], "fails with TypeError: a_kernel got 2 arguments"),
        (
            [("@triton.jit\n", "@triton.autotune([triton.Config({})], key=[])\n@triton.jit\n")],
            "chooses its config itself",
        ),
        ([('config["block_m"]', 'config["tile_m"]')], "it fails with KeyError: 'tile_m'"),
        ([("is_device_capability", "is_made_by_nvidia")], "no attribute 'is_made_by_nvidia'"),
        ([("def _lora_shrink(", "_lora_shrink = print\ndef _other(")], "is not a Python function"),
        ([("import triton\n", "import triton\nimport a_missing_dependency\n")], "cannot be imported: No module named"),
    ],
)
def test_what_is_not_known_is_refused(install, changes, said):
    install(*changes)
    assert said in refusal()


def test_a_vllm_without_the_modules_is_unavailable(install):
    install()
    module, _ = LAUNCHERS["lora_expand"]
    assert unavailable().endswith(f"has no module {module}")
    with pytest.raises(VllmError, match="lora_expand_op cannot be imported: No module named"):
        operations.operation("lora_expand")


def test_asking_what_is_installed_imports_neither_torch_nor_vllm():
    code = "import sys; from bo_tune.kernels.vllm.installed import unavailable; unavailable(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "triton", "vllm"} & set(done.stdout.split())


def test_no_vllm_is_unavailable(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert unavailable() == "vLLM is not installed"


@pytest.mark.parametrize(
    ("written", "named"),
    [("0.33.0+cu129", "0.33.0"), ("0.33.1.dev7+g4ba787e", "0.33.1.dev7+g4ba787e"), ("0.33.0+cpu", "0.33.0")],
)
def test_the_version_is_that_of_the_kernels_text(install, written, named):
    install(init=f"__version__ = {written!r}\n")
    assert shrink().source == f"vllm {named}"


def test_without_a_version_the_source_is_a_digest_of_the_files(install):
    install(init="__version__ = 'dev'\n")
    kind, digest = shrink().source.split()
    assert kind == "vllm"
    assert len(digest) == 10
    assert int(digest, 16) >= 0


def test_vllm_itself_is_left_as_it_is(install):
    """The launcher runs in a namespace of its own: an engine in this process would notice nothing."""
    install()
    op = shrink()
    module = sys.modules["vllm.lora.ops.triton_ops.lora_shrink_op"]
    before = dict(vars(module))
    op.effective_config(PROBLEM, CONFIG, H100)
    assert dict(vars(module)) == before
    assert module.current_platform is None
    with pytest.raises(NotImplementedError):
        module.get_lora_op_configs("shrink", 1, 2, 3, 4, 5)


def test_another_kernels_name_is_refused(install):
    install()
    with pytest.raises(InputError, match="unknown kernel"):
        operations.operation("a_kernel")


def test_tensors_of_stand_ins_hold_nothing(install):
    install()
    call = shrink().capture_without_inputs(PROBLEM, CONFIG, (9, 0))
    assert {value.device for value in call.arguments if isinstance(value, torch.Tensor)} == {torch.device("meta")}
