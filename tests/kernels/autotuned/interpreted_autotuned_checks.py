"""Kernels under ``bo_tune.autotune`` under Triton's interpreter: launched, and checked as recorded calls.

Run by ``test_autotuned_interpreted``: TRITON_INTERPRET must be set before anything of the package is imported.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

import autotuned_kernels as own
import torch

from bo_tune.kernels.autotuned import misses
from bo_tune.kernels.autotuned.calls import TUNED_VARIABLE, read_calls
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user.identity.home import kernel_in
from bo_tune.kernels.user.operation import operation_of


def doubled() -> None:
    x = torch.randn(1000)
    assert torch.equal(own.doubled(x), 2 * x)


def added_up() -> None:
    x = torch.rand(200)
    before = x.clone()
    assert torch.allclose(own.added_up(x), 3 * before.sum())
    assert torch.equal(x, before + 1)


def multiplied() -> None:
    a, b = (torch.randn(64, 64, dtype=torch.float16) for _ in "ab")
    assert torch.allclose(own.multiplied(a, b), a @ b, atol=0.05)


def gathered() -> None:
    x, rows = torch.randn(5, 70), torch.tensor([4, 0, 2, 1, 3], dtype=torch.int32)
    assert torch.equal(own.gathered(x, rows), x[rows.long()])


@pytest.mark.parametrize("launch", [doubled, added_up, multiplied, gathered], ids=lambda launch: launch.__name__)
def test_a_launch_is_right_and_so_is_its_recorded_call(
    launch: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    monkeypatch.setenv("BO_TUNE_CALLS", str(tmp_path))
    monkeypatch.setenv(TUNED_VARIABLE, str(tmp_path))
    monkeypatch.setattr(misses, "_WRITERS", {})
    launch()
    (call,) = read_calls(tmp_path)
    kernel, problem = kernel_in(own, call.kernel), call.problem(call.kernel)  # type: ignore[arg-type]
    operation = operation_of(kernel, Path(own.__file__))
    inputs = operation.make_inputs(problem, seed=0, device=torch.device("cpu"))
    right = operation.right(inputs)
    allowed = [params for params in kernel.listed if kernel.allows(problem, params)]
    for params in (allowed[0], allowed[-1]):
        for _ in range(2):
            operation.poison(inputs)
            operation.launch(inputs, kernel.encode(params, "here"))
            verdict = operation.judge(inputs, right)
            assert verdict == Verdict(verdict.error, "")
            assert verdict.error is not None
            assert verdict.error < 1e-3
            operation.reset(inputs)


def test_a_config_that_computes_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    monkeypatch.setenv("BO_TUNE_CALLS", str(tmp_path))
    monkeypatch.setenv(TUNED_VARIABLE, str(tmp_path))
    monkeypatch.setattr(misses, "_WRITERS", {})
    own.doubled(torch.randn(700))
    (call,) = read_calls(tmp_path)
    kernel, problem = own.double_kernel.definition, call.problem("double_kernel")
    operation = operation_of(kernel, Path(own.__file__))
    inputs = operation.make_inputs(problem, seed=0, device=torch.device("cpu"))
    right = operation.right(inputs)
    monkeypatch.setattr(type(kernel), "programs", lambda *_: (1, 1, 1))
    operation.poison(inputs)
    operation.launch(inputs, kernel.encode(kernel.listed[0], "here"))
    assert "elements are wrong" in operation.judge(inputs, right).wrong
