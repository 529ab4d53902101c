"""Recorded calls compile for sm_90 on a machine without a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import autotuned_kernels as own
import pytest
import torch
import triton
from helpers import H100
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from bo_tune.kernels.autotuned import misses
from bo_tune.kernels.autotuned.calls import TUNED_VARIABLE, read_calls
from bo_tune.kernels.user.identity.home import kernel_in
from bo_tune.kernels.user.operation import operation_of
from bo_tune.kernels.user.spec import UserSpec
from bo_tune.measure.compile.offline_driver import activate

pytestmark = pytest.mark.slow

LAUNCH = JITFunction.run


def half() -> torch.Tensor:
    return torch.empty(64, 64, dtype=torch.float16)


@pytest.mark.parametrize(
    "launch",
    [
        lambda: own.doubled(torch.empty(1000)),
        lambda: own.added_up(torch.empty(200)),
        lambda: own.multiplied(half(), half()),
        lambda: own.gathered(torch.empty(5, 70), torch.empty(5, dtype=torch.int32)),
    ],
    ids=["double", "add_up", "described", "gather"],
)
def test_a_recorded_call_compiles_and_is_described_to_the_search(
    launch: Callable[[], Any],
    launched: list[Any],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where nothing is said
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    for name in ("BO_TUNE_CALLS", TUNED_VARIABLE):
        monkeypatch.setenv(name, str(tmp_path / "calls"))
    monkeypatch.setattr(misses, "_WRITERS", {})
    launch()
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    monkeypatch.setattr(JITFunction, "run", LAUNCH)
    activate(GPUTarget("cuda", 90, 32), H100)
    (call,) = read_calls(tmp_path / "calls")
    kernel, problem = kernel_in(own, call.kernel), call.problem(call.kernel)  # type: ignore[arg-type]
    operation = operation_of(kernel, Path(own.__file__))
    spec = UserSpec(kernel, frozenset(dict(problem.sizes)))
    config = spec.default_config(problem)
    (binary,) = operation.compile(problem, config)
    assert binary.asm["cubin"][:4] == b"\x7fELF"
    assert operation.compile_key(problem, config, H100) == operation.compile_key(problem, config, H100)
    assert spec.features([config], problem, H100).shape == (1, len(spec.feature_names))
    assert operation.source.startswith("autotuned_kernels.py ")
