"""The fused MoE kernels compiled for sm_90 on a machine without a GPU."""

import pytest
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moe_cases import KERNELS, moe_problem
from triton.backends.compiler import GPUTarget

from bo_tune.core.problem import Experts, GpuInfo
from bo_tune.kernels.operations import operation
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.compile.offline_driver import activate

pytestmark = pytest.mark.slow

H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)
LARGE = {"max_loras": 4, "m": 256, "k": 16, "n": 2048, "i": 768, "experts": Experts(128, 8), "dtype": "bfloat16"}


@pytest.fixture(autouse=True)
def _sm_90(monkeypatch, tmp_path_factory):
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32))


def config_of(kernel, **changes):
    config = kernel_spec(kernel).default_config(moe_problem(kernel, **LARGE))
    return {**config, **changes}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tile", [{"block_m": 16, "num_stages": 3}, {"block_m": 64, "block_n": 64, "num_stages": 4}])
def test_warmup_gives_a_cubin_with_at_least_the_predicted_shared_memory(kernel, tile):
    problem, config = moe_problem(kernel, **LARGE), config_of(kernel, **tile)
    binary = operation(kernel).warmup(problem, config)
    assert binary.asm["cubin"][:4] == b"\x7fELF"
    assert 0 < kernel_spec(kernel).shared_memory_bytes(config, problem) <= binary.metadata.shared
    tight = GpuInfo("just enough", (9, 0), sm_count=1, shared_memory_bytes=binary.metadata.shared)
    assert kernel_spec(kernel).impossible(config, problem, tight) is None


@st.composite
def variants(draw):
    kernel = draw(st.sampled_from(KERNELS))
    problem = moe_problem(
        kernel,
        m=draw(st.sampled_from([1, 16, 24])),
        k=draw(st.sampled_from([16, 24])),
        n=draw(st.sampled_from([64, 100])),
        i=draw(st.sampled_from([32, 50])),
        dtype=draw(st.sampled_from(["bfloat16", "float16"])),
        experts=draw(st.sampled_from([Experts(6, 2), Experts(16, 2), Experts(16, 4)])),
    )
    return problem, config_of(kernel, block_m=16, block_n=16, block_k=16 if "expand" in kernel else 32)


@pytest.mark.usefixtures("hashes_alone")
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(variants(), st.data())
def test_compile_keys_are_equal_exactly_for_the_same_binary(case, data):
    problem, config = case
    other = data.draw(variants().filter(lambda drawn: drawn[0].kernel == problem.kernel))
    op = operation(problem.kernel)
    keys_equal = op.compile_key(problem, config, H100) == op.compile_key(*other, H100)
    assert keys_equal == (op.warmup(problem, config).hash == op.warmup(*other).hash)


@pytest.mark.usefixtures("hashes_alone")
def test_one_binary_serves_every_number_of_tokens():
    op = operation(KERNELS[0])
    problems = [moe_problem(KERNELS[0], m=m) for m in (1, 7, 2048)]
    config = config_of(KERNELS[0], block_m=16)
    assert len({op.warmup(problem, config).hash for problem in problems}) == 1
    assert len({op.compile_key(problem, config, H100) for problem in problems}) == 1
