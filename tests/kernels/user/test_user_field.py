"""Kernels of the sorts that people autotune compile for sm_90 without a GPU, and are told as they are launched."""

from pathlib import Path

import pytest
import triton
from field_kernels import ALL, SIZES
from helpers import H100, ROOT
from triton.backends.compiler import GPUTarget

from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.user.identity.home import home_of
from bo_tune.kernels.user.operation import operation_of
from bo_tune.kernels.user.spec import UserSpec
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.processes.importing import import_source

pytestmark = pytest.mark.slow

LAUNCHED = {"adam": 2}
"""Binaries of a config, where there are several: of addresses and counts that are divisible by 16, and of others."""


@pytest.fixture(autouse=True)
def _sm_90(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where nothing is said
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)


def test_the_benchmark_has_eleven_kernels_with_spaces_that_are_large_or_measured_whole() -> None:
    cases = import_source(str(ROOT / "benchmarks" / "field.py")).CASES
    assert list(cases) == [
        "softmax", "matmul", "tma_matmul", "persistent_matmul", "layer_norm_backward", "split_k", "attention",
        "cross_entropy", "state_update", "grouped_gemm", "adam",
    ]  # fmt: skip
    for name, (kernel, sizes) in cases.items():
        asked = SizedProblem(kernel.name, tuple(sizes.items()))
        kernel.check_sizes(sizes)
        space = UserSpec(kernel, frozenset(sizes)).search_space
        valid = [config for config in space if kernel.allows(asked, kernel.decode(config))]
        assert kernel.allows(asked, kernel.default_params(asked)), name
        assert len(valid) < 40 or len(valid) >= 200, name
        assert home_of(kernel).endswith("field.py")


@pytest.mark.parametrize("name", ALL)
def test_a_kernel_compiles_ahead(name: str) -> None:
    operation = operation_of(ALL[name], Path(__file__))
    asked = SizedProblem(name, tuple(SIZES[name][0].items()))
    config = ALL[name].encode(ALL[name].default_params(asked), "default")
    assert operation.note(asked, H100) is None
    binaries = operation.compile(asked, config)
    assert len({binary.hash for binary in binaries}) == LAUNCHED.get(name, 1)
    assert all(binary.asm["cubin"][:4] == b"\x7fELF" for binary in binaries)
    assert operation.compile_key(asked, config, H100) == operation.compile_key(asked, config, H100)
