"""``bo_tune.autotune`` on the GPU at hand: tuned where a launch misses, captured, compiled by PyTorch, on all ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import autotuned_kernels as own
import pytest
import torch
from helpers import PATIENCE_S, ROOT

import bo_tune
from bo_tune.kernels.autotuned import misses
from bo_tune.kernels.autotuned.misses import Misses
from bo_tune.kernels.user import frozen

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    # PyTorch's compiler says so anywhere, and of itself where it is imported
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
]

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is known of any key, and everything is written below the test's folder.

    Triton's cache is the same for all tests, because PyTorch's compiler remembers kernels whose files lie there.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setenv("BO_TUNE_TABLE", str(tmp_path / "own.tuned.json"))
    monkeypatch.setenv("BO_TUNE_CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(misses, "_WRITERS", {})
    for kernel in (own.double_kernel, own.gather_kernel, own.described_kernel, own.add_up_kernel.fn):
        monkeypatch.setattr(kernel, "_winners", {})
        monkeypatch.setattr(kernel, "_misses", Misses(kernel, kernel._misses._settings))
    frozen.forget()


def entries(kernel: str) -> list[dict[str, Any]]:
    tables = json.loads(Path("own.tuned.json").read_text())["kernels"][kernel]
    found: list[dict[str, Any]] = tables[torch.cuda.get_device_name()]
    return found


def launch_all() -> None:
    x = torch.randn(5000, device="cuda")
    assert torch.equal(own.doubled(x), 2 * x)
    y = torch.rand(2000, device="cuda")
    before = y.clone()
    assert torch.allclose(own.added_up(y), 3 * before.sum(), rtol=1e-3)
    assert torch.equal(y, before + 1)
    a, b = (torch.randn(128, 64, device="cuda", dtype=torch.float16) for _ in "ab")
    assert torch.allclose(own.multiplied(a, b.T.contiguous()), a @ b.T, atol=0.05)
    rows = torch.tensor([4, 0, 2, 1, 3], device="cuda", dtype=torch.int32)
    z = torch.randn(5, 700, device="cuda")
    assert torch.equal(own.gathered(z, rows), z[rows.long()])


def test_what_launches_recorded_is_tuned_and_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    launch_all()
    found = bo_tune.tune_recorded("calls", table="own.tuned.json")
    assert {best.kernel for best in found} == {"double_kernel", "add_up_kernel", "described_kernel", "gather_kernel"}
    assert all(best.default_time_us and best.time_us <= best.default_time_us for best in found)
    for kernel in (own.double_kernel, own.gather_kernel, own.described_kernel, own.add_up_kernel.fn):
        monkeypatch.setattr(kernel, "_winners", {})
    monkeypatch.setenv("BO_TUNE_ON_MISS", "error")
    launch_all()


def test_a_launch_that_misses_is_tuned_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "tune")
    x = torch.randn(100_000, device="cuda")
    assert torch.equal(own.doubled(x), 2 * x)
    (entry,) = entries("double_kernel")
    assert own.double_kernel.best_config.kwargs["BLOCK"] == entry["config"]["BLOCK"]


def test_a_captured_launch_looks_up_and_never_tunes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "tune")
    monkeypatch.setattr(misses, "tune_in_child", None)
    x = torch.randn(4096, device="cuda")
    own.double_kernel.fn[(16,)](x, torch.empty_like(x), 4096, BLOCK=128, num_warps=2)  # loaded before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = own.doubled(x)
    graph.replay()
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("dynamic", [False, True])
def test_pytorch_s_compiler_takes_the_table_s_winner_and_is_right(
    dynamic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"sizes": {"n": 5000, "dtypes": "2xfloat32"}, "time_us": 1.0, "default_time_us": None, "study": "x"}
    row["config"] = {"BLOCK": 256, "num_warps": 1, "num_stages": 3}
    table = {"format": "bo_tune table 1", "kernels": {"double_kernel": {torch.cuda.get_device_name(): [row]}}}
    Path("own.tuned.json").write_text(json.dumps(table))
    torch._dynamo.reset()
    seen: list[list[Any]] = []
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table  # noqa: PLC0415

    add = kernel_side_table.add_kernel
    monkeypatch.setattr(
        kernel_side_table, "add_kernel", lambda kernel: (seen.append(getattr(kernel, "configs", [])), add(kernel))[1]
    )
    compiled = torch.compile(lambda x: own.doubled(x) + 1, fullgraph=True, dynamic=dynamic)
    for n in (5000, 3000):
        x = torch.randn(n, device="cuda")
        assert torch.allclose(compiled(x), 2 * x + 1)
    left = [configs for configs in seen if len(configs) == 1]
    assert list(dict.fromkeys(one[0].kwargs["BLOCK"] for one in left)) == [256, 128]


def test_two_processes_read_the_same_winner_and_load_no_search() -> None:
    launch = (
        "import sys, torch, autotuned_kernels as own; own.doubled(torch.randn(5000, device='cuda')); "
        "torch.cuda.synchronize(); print(own.double_kernel.best_config, 'optuna' in sys.modules)"
    )
    path = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}

    def run(on_miss: str) -> list[str]:
        command = [sys.executable, "-c", launch]
        env = {**environment, "BO_TUNE_ON_MISS": on_miss}
        both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        return [process.communicate(timeout=PATIENCE_S)[0] for process in both]

    first, second = run("tune")
    assert first == second
    assert first.endswith("False\n")
    assert run("error") == [first, first]
    assert len(entries("double_kernel")) == 1


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "BO_TUNE_ON_MISS": "default"}
    command = [sys.executable, str(ROOT / "examples" / "drop_in.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.startswith("2048: BLOCK_M: 64, BLOCK_N: 64")
