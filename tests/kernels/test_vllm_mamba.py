"""The published vLLM's kernel of a Mamba-2 layer's decode step through the adapter, on a machine without a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
from helpers import H100
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from vllm_wheel import VERSION, importable

from bo_tune.core.problem import GpuInfo
from bo_tune.errors import InputError
from bo_tune.kernels.mamba.step import KERNEL, MambaStep
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm.installed import VllmError
from bo_tune.kernels.vllm.mamba import MODULES, MambaLauncher
from bo_tune.kernels.vllm.operations import operation
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.source import BUILTIN, VLLM, default_config, operations_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")]

H200 = GpuInfo("NVIDIA H200", (9, 0), sm_count=132, shared_memory_bytes=232448)
B200 = GpuInfo("NVIDIA B200 elsewhere", (10, 0), sm_count=148, shared_memory_bytes=232448)
STEP = MambaStep(16, 64, 64, 128, 8)
SPEC = kernel_spec(KERNEL)
CONFIG = {"BLOCK_SIZE_M": 8, "num_warps": 2}


@pytest.fixture(autouse=True)
def _sm_90(vllm: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)


def test_the_engines_version_is_named() -> None:
    assert operation(KERNEL).source == f"vllm {VERSION}"


def test_the_kernel_is_given_what_the_engine_gives_it() -> None:
    op = operation(KERNEL)
    call = op.call(op.stand_ins(STEP.problem), CONFIG, H100)
    given = call.parameters
    assert call.grid == (64 // 8, 16, 64)
    assert (given["nheads"], given["dim"], given["dstate"], given["nheads_ngroups_ratio"]) == (64, 64, 128, 8)
    assert (given["TIE_HDIM"], given["DT_SOFTPLUS"], given["HAS_D"], given["HAS_Z"]) == (True, True, True, False)
    assert (given["HAS_STATE_BATCH_INDICES"], given["IS_SPEC_DECODING"], given["IS_VARLEN"]) == (True, False, False)
    assert given["BLOCK_SIZE_DSTATE"] == 128
    assert given["stride_x_batch"] == 64 * 64 + 2 * 8 * 128, "a part of what the convolution came to"
    assert given["stride_x_batch"] == given["stride_B_batch"] == given["stride_C_batch"]


def test_every_config_runs_as_it_is() -> None:
    op = operation(KERNEL)
    for config in SPEC.search_space:
        assert op.effective_config(STEP.problem, config, H100) == config


@pytest.mark.usefixtures("hashes_alone")
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    steps=st.tuples(*[
        st.builds(
            MambaStep,
            sequences=st.sampled_from([1, 16, 24]),
            heads=st.sampled_from([1, 4, 64]),
            headdim=st.sampled_from([8, 64]),
            dstate=st.sampled_from([16, 20]),
        )
    ] * 2)
)  # fmt: skip
def test_keys_are_equal_exactly_for_the_same_binaries(steps: tuple[MambaStep, MambaStep]) -> None:
    op = operation(KERNEL)
    keys = [op.compile_key(step.problem, CONFIG, H100) for step in steps]
    binaries = [[binary.hash for binary in op.compile(step.problem, CONFIG)] for step in steps]
    assert (keys[0] == keys[1]) == (binaries[0] == binaries[1])


def test_one_binary_serves_every_number_of_sequences() -> None:
    op = operation(KERNEL)
    keys = {op.compile_key(replace(STEP, sequences=count).problem, CONFIG, H100) for count in (2, 3, 16, 1000)}
    assert len(keys) == 1


def test_the_default_is_what_the_engine_ships_for_the_gpu_and_else_its_rule() -> None:
    assert default_config(VLLM, SPEC, STEP.problem, H200) == {"BLOCK_SIZE_M": 4, "num_warps": 1}
    halved = replace(STEP, sequences=512, state_dtype="bfloat16")
    assert default_config(VLLM, SPEC, halved.problem, H200) == {"BLOCK_SIZE_M": 32, "num_warps": 2}
    nothing_shipped = replace(STEP, headdim=32)
    assert default_config(VLLM, SPEC, nothing_shipped.problem, H200) == SPEC.default_config(nothing_shipped.problem)
    assert default_config(VLLM, SPEC, STEP.problem, B200) == {"BLOCK_SIZE_M": 32, "num_warps": 8}
    assert default_config(BUILTIN, SPEC, STEP.problem, H200) == SPEC.default_config(STEP.problem)


@given(dstate=st.integers(1, 2048))
def test_the_rule_restated_is_the_engines(dstate: int) -> None:
    problem = replace(STEP, headdim=33, dstate=dstate).problem
    assert default_config(VLLM, SPEC, problem, H100) == SPEC.default_config(problem)


def made_up(folder: Path, body: str) -> Path:
    """A package called vllm whose module of Mamba is this."""
    file = folder / "vllm" / MODULES[0]
    file.parent.mkdir(parents=True)
    (folder / "vllm" / "__init__.py").write_text("__version__ = '9.9'\n")
    file.write_text(body)
    return folder


KERNEL_AND_LOOKUP = (
    "@triton.jit\ndef _selective_scan_update_kernel(a):\n    pass\n"
    "def try_get_optimal_ssm_config(*key):\n    return 1, 1\n"
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "has no selective_state_update"),
        ("def selective_state_update():\n    pass\n", "has no _selective_scan_update_kernel"),
        ("@missing\ndef selective_state_update():\n    pass\n", "NameError: name 'missing' is not defined"),
    ],
)
def test_a_vllm_without_the_kernel_is_refused_by_its_version(tmp_path: Path, body: str, reason: str) -> None:
    with importable(made_up(tmp_path, body)), pytest.raises(VllmError, match=f"^vllm 9.9: .*{reason}"):
        MambaLauncher()


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        ("pass", r"looks its config up under \[\], instead of once under \(1, 2\)"),
        ("try_get_optimal_ssm_config(1, 2)", "launches 0 kernels instead of one"),
        ("given.nothing", "AttributeError: 'dict' object has no attribute 'nothing'"),
    ],
)
def test_a_launcher_that_does_something_else_is_refused(tmp_path: Path, launch: str, reason: str) -> None:
    used = "_selective_scan_update_kernel, try_get_optimal_ssm_config"
    body = f"{KERNEL_AND_LOOKUP}def selective_state_update(**given):\n    {used}\n    {launch}\n"
    with importable(made_up(tmp_path, body)), pytest.raises(VllmError, match=reason):
        MambaLauncher().capture({"x": torch.ones(1)}, CONFIG, (1, 2))


def test_a_vllm_without_the_module_is_refused_for_this_kernel_alone(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("")
    with importable(tmp_path), pytest.raises(VllmError, match="where selective_state_update should be"):
        operation(KERNEL)


def test_the_project_has_no_such_kernel_of_its_own() -> None:
    with pytest.raises(InputError, match="bo_tune has no selective_state_update of its own"):
        operations_of(BUILTIN)(KERNEL)
