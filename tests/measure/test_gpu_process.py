"""What the GPU process does short of touching a GPU: whom it refuses, what it checks."""

import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import pytest
import torch

from bo_tune.core.outcome import LaunchPurpose
from bo_tune.core.problem import LoraProblem
from bo_tune.core.surroundings import Linear, Surroundings
from bo_tune.kernels.operation import Verdict
from bo_tune.measure.backends.nvidia.children import GpuSide, refusal
from bo_tune.measure.device import Remeasured
from bo_tune.measure.gpu.process import GpuServer, Prepared, versions
from bo_tune.measure.gpu.timing import Timed

NVIDIA = {"hip": None, "xpu": None, "cuda": "12.8"}


def cuda(*, available: bool = True, count: int = 2) -> SimpleNamespace:
    return SimpleNamespace(is_available=lambda: available, device_count=lambda: count)


@pytest.mark.parametrize("index", [0, 1])
def test_an_nvidia_gpu_is_taken(index: int) -> None:
    assert refusal(index, SimpleNamespace(**NVIDIA), cuda()) is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ({"hip": "6.4", "cuda": None}, "AMD"),
        ({"hip": "6.4"}, "AMD"),
        ({"xpu": "20250", "cuda": None}, "Intel"),
        ({"cuda": None}, "without CUDA"),
    ],
)
def test_a_gpu_of_another_vendor_is_refused_by_name(version: dict[str, str | None], expected: str) -> None:
    reason = refusal(0, SimpleNamespace(**{**NVIDIA, **version}), cuda())
    assert reason is not None
    assert expected in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("index", "available", "expected"),
    [(0, False, "no NVIDIA GPU"), (2, True, "this host has only 2"), (7, True, "has only 2")],
)
def test_a_gpu_that_is_not_there_is_refused(index: int, available: bool, expected: str) -> None:
    reason = refusal(index, SimpleNamespace(**NVIDIA), cuda(available=available))
    assert reason is not None
    assert expected in reason


def test_the_tuning_process_can_read_the_versions_without_torch() -> None:
    script = (
        "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())['torch']); assert 'torch' not in sys.modules"
    )
    read = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(versions()), capture_output=True, check=True
    )
    assert read.stdout.decode().strip() == torch.__version__


class CountedKernel:
    """An operation that launches nothing, right or wrong by its config."""

    def __init__(self) -> None:
        self.launched: list[int] = []
        self.restored = 0

    def launch(self, inputs: torch.Tensor, config: Mapping[str, int]) -> None:
        self.launched.append(config["block_m"])
        inputs.fill_(1.0 if config["block_m"] < 64 else 2.0)

    def poison(self, inputs: torch.Tensor) -> None:
        inputs.fill_(torch.nan)

    reset = poison

    def restore(self, inputs: torch.Tensor) -> None:
        self.restored += 1

    def judge(self, inputs: torch.Tensor, right: torch.Tensor) -> Verdict:
        return Verdict(0.0, "" if torch.equal(inputs, right) else "wrong")


class CountedTimer:
    def time_in_turn(self, launches: Sequence[Callable[[], None]], rounds: int, restore: Callable[[], None]) -> Timed:
        restore()
        return Timed([[5.0] * rounds for _ in launches], 2 * rounds * len(launches), 1)


class LayerWithoutRoom:
    def time_in_turn(self, *arguments: object) -> Timed:
        raise torch.OutOfMemoryError("no room for 16 copies")


@pytest.mark.parametrize("healthy", [True, False])
def test_a_layer_that_there_is_no_room_for_costs_no_more_than_its_race(
    healthy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, gpu = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), GpuSide.__new__(GpuSide)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    prepared = Prepared(gpu, CountedKernel(), torch.zeros(4), torch.ones(4))  # type: ignore[arg-type]
    server = GpuServer.__new__(GpuServer)
    server._layer = LayerWithoutRoom()  # type: ignore[assignment]
    server._prepared = OrderedDict({problem: prepared})
    monkeypatch.setattr(server, "_is_healthy", lambda: healthy)
    around = Surroundings(Linear(4096, (4096,)), {"block_n": 16})
    if healthy:
        assert server.remeasure_in_place([problem], [({"block_m": 16},)], 3, around) == Remeasured(
            [()], Counter({LaunchPurpose.CHECK: 1})
        )
    else:
        with pytest.raises(torch.OutOfMemoryError):
            server.remeasure_in_place([problem], [({"block_m": 16},)], 3, around)


def test_a_finalist_is_checked_once_and_one_that_is_wrong_has_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    problem, kernel = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), CountedKernel()
    server = GpuServer.__new__(GpuServer)  # its constructor wants a GPU
    server._timer = CountedTimer()  # type: ignore[assignment]
    server._prepared = OrderedDict({problem: Prepared(GpuSide.__new__(GpuSide), kernel, torch.zeros(4), torch.ones(4))})  # type: ignore[arg-type]
    configs = tuple({"block_m": block_m} for block_m in (16, 64, 32))
    first = server.remeasure(problem, configs, 3)
    assert first.runtimes_us == [(5.0,) * 3, (), (5.0,) * 3]
    assert first.launches == {LaunchPurpose.CHECK: 3, LaunchPurpose.FINALISTS: 12, LaunchPurpose.LATE: 1}
    again = server.remeasure(problem, configs, 3)
    assert again.runtimes_us == first.runtimes_us
    assert again.launches == {LaunchPurpose.FINALISTS: 12, LaunchPurpose.LATE: 1}
    assert kernel.launched == [16, 64, 32]
    assert kernel.restored == 2
