"""The kernels compiled for sm_90 on a machine without a GPU."""

from dataclasses import replace

import pytest
import triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_variants import SMALL, variants
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.kernels.operations import operation
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.compile.offline_driver import activate

pytestmark = pytest.mark.slow

H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)


@pytest.fixture(autouse=True)
def _sm_90(monkeypatch, tmp_path_factory):
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32))


CASES = [
    (LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), {"block_m": 16, "block_n": 32, "block_k": 64, "split_k": 16}),
    (LoraProblem("lora_shrink", 4, 1, 100, 4096, 16), {"block_m": 64, "block_n": 32, "block_k": 64, "split_k": 8}),
    (LoraProblem("lora_shrink", 4, 3, 1, 1000, 8, dtype="float16"), {"block_m": 16, "block_n": 32, "block_k": 32}),
    (LoraProblem("lora_expand", 4, 1, 16, 16, 4096), {"block_m": 64, "block_n": 64, "block_k": 32}),
    (LoraProblem("lora_expand", 4, 1, 1, 64, 4096), {"block_m": 64, "block_n": 64, "block_k": 64}),
    (LoraProblem("lora_expand", 4, 2, 64, 32, 14336), {"block_m": 16, "block_n": 64, "block_k": 32}),
    (
        LoraProblem("lora_expand", 4, 3, 64, 32, 4096, slice_sizes=(4096, 1024, 1024), add_inputs=False),
        {"block_m": 64, "block_n": 64, "block_k": 32},
    ),
]


@pytest.mark.parametrize(
    ("problem", "tile"), CASES, ids=lambda value: str(value) if isinstance(value, LoraProblem) else ""
)
def test_warmup_gives_a_cubin_with_the_predicted_shared_memory(problem, tile):
    config = {"num_warps": 4, "num_stages": 3, **tile}
    kernel = operation(problem.kernel).warmup(problem, config)
    spec = kernel_spec(problem.kernel)
    assert kernel.asm["cubin"][:4] == b"\x7fELF"
    assert spec.shared_memory_bytes(config, problem) <= kernel.metadata.shared
    tight = GpuInfo("just enough", (9, 0), sm_count=1, shared_memory_bytes=kernel.metadata.shared)
    assert spec.impossible(config, problem, tight) is None
    small = GpuInfo("half", (9, 0), sm_count=1, shared_memory_bytes=kernel.metadata.shared // 2 - 1)
    assert spec.impossible(config, problem, small) is not None


@pytest.mark.parametrize("kernel", ["lora_shrink", "lora_expand"])
def test_stages_are_inert_where_k_is_ragged(kernel):
    """The claim behind ``effective_config``: the binary itself is the same."""
    op = operation(kernel)
    problem = LoraProblem(kernel, 4, 1, 16, 1000, 64)
    call = op.call(op.stand_ins(problem), SMALL | {"split_k": 4, "group_size_m": 8})
    texts = set()
    for stages in (1, 2, 5):
        binary = replace(call, options={**call.options, "num_stages": stages}).warmup()
        texts.add(binary.asm["cubin"])
    assert len(texts) == 1


def test_effective_config_completes_and_drops_only_inert_stages():
    shrink = operation("lora_shrink")
    even, ragged = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), LoraProblem("lora_shrink", 4, 1, 16, 1000, 16)
    config = {**SMALL, "split_k": 4}
    assert shrink.effective_config(even, config, H100) == {**config, "group_size_m": 8}
    assert shrink.effective_config(ragged, config, H100) == {**config, "group_size_m": 8, "num_stages": 1}
    expand = operation("lora_expand")
    assert expand.effective_config(LoraProblem("lora_expand", 4, 1, 16, 32, 4096), SMALL, H100) == SMALL
    without_ctas = {name: value for name, value in SMALL.items() if name != "num_ctas"}
    assert expand.effective_config(LoraProblem("lora_expand", 4, 1, 16, 64, 4096), without_ctas, H100) == SMALL


def test_hashes_are_known_before_there_are_binaries(monkeypatch, request):
    problem, op, compiles = (
        LoraProblem("lora_expand", 4, 1, 16, 48, 64),
        operation("lora_expand"),
        JITFunction._do_compile,
    )
    request.getfixturevalue("hashes_alone")
    told = op.warmup(problem, SMALL).hash
    monkeypatch.setattr(JITFunction, "_do_compile", compiles)
    assert op.warmup(problem, SMALL).hash == told


@pytest.mark.usefixtures("hashes_alone")
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(variants(), st.data())
def test_compile_keys_are_equal_exactly_for_the_same_binary(case, data):
    problem, config = case
    other = data.draw(variants().filter(lambda drawn: drawn[0].kernel == problem.kernel))
    first, second = operation(problem.kernel), operation(other[0].kernel)
    keys_equal = first.compile_key(problem, config, H100) == second.compile_key(*other, H100)
    assert keys_equal == (first.warmup(problem, config).hash == second.warmup(*other).hash)


def test_compile_key_tells_gpus_apart():
    problem, op = LoraProblem("lora_expand", 4, 1, 16, 64, 64), operation("lora_expand")
    a100 = GpuInfo("NVIDIA A100", (8, 0), sm_count=108, shared_memory_bytes=166912)
    assert op.compile_key(problem, SMALL, H100) != op.compile_key(problem, SMALL, a100)


def test_each_target_compiles_for_itself():
    """Triton keeps one target per device number: a second target must not be answered with the first's binary."""
    problem, op = LoraProblem("lora_expand", 4, 1, 16, 64, 64), operation("lora_expand")
    hopper = op.warmup(problem, SMALL)
    activate(GPUTarget("cuda", 80, 32))
    assert op.warmup(problem, SMALL).metadata.target.arch == 80
    activate(GPUTarget("cuda", 90, 32))
    assert op.warmup(problem, SMALL).hash == hopper.hash


def test_source_names_the_kernels_text():
    sources = {operation(name).source for name in ("lora_shrink", "lora_expand")}
    assert len(sources) == 2
    assert all(source.startswith("bo_tune ") and len(source) == len("bo_tune ") + 10 for source in sources)
