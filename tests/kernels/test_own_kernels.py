"""``benchmarks/own_kernels.py`` and its autotune process, as far as they run without a GPU."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import triton
from helpers import ROOT

from bo_tune.processes.importing import import_source

SIZES = {"rows": 256, "cols": 256}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The modules ``own_kernels`` and ``autotuned``."""
    listener = triton.knobs.compilation.listener
    own, autotuned = (import_source(str(ROOT / "benchmarks" / f"{name}.py")) for name in ("own_kernels", "autotuned"))
    monkeypatch.setattr(triton.knobs.compilation, "listener", listener)
    return own, autotuned


def test_both_sides_search_the_same_configs(benchmarks: tuple[ModuleType, ModuleType]) -> None:
    own, autotuned = benchmarks
    for case in own.CASES:
        kernel = own.kernel_of(case)
        problem = own.SizedProblem(kernel.name, tuple(case.problems[0].items()))
        sizes = [len(autotuned.configs_of(kernel, problem, case.grids[name])) for name in own.GRIDS]
        assert sizes == sorted(sizes)
        assert sizes[0] > 40
        for name in own.GRIDS:
            ranges = {**kernel.space, **case.grids[name]}
            configs = autotuned.configs_of(kernel, problem, case.grids[name])
            assert all(config[parameter] in ranges[parameter] for config in configs for parameter in ranges)
            assert kernel.default in configs or name == "small"


def test_launches_failures_and_what_the_deadline_left_out_are_counted(
    benchmarks: tuple[ModuleType, ModuleType],
) -> None:
    _, autotuned = benchmarks

    def three_times(call: Callable[[], None], quantiles: object) -> list[float]:
        for _ in range(3):
            call()
        return [1.0, 1.0, 1.0]

    def fails() -> None:
        raise RuntimeError("out of luck")

    counted = autotuned.Counted(three_times, time.perf_counter() + 60)
    assert counted(lambda: None, quantiles=()) == [1.0, 1.0, 1.0]
    assert counted(fails, quantiles=()) == autotuned.NO_TIME
    late = autotuned.Counted(three_times, time.perf_counter() - 1)
    assert late(lambda: None, quantiles=()) == autotuned.NO_TIME
    figures = counted.figures()
    assert figures.pop("gpu_s") > 0.0
    assert figures == {"launches": 3, "launched": 1, "failed": 1, "left_out": 0, "compiles": 0}
    assert late.figures()["left_out"] == 1


def test_autotune_is_given_the_grid_and_asked_for_its_choice(
    benchmarks: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Triton's own autotuner, with times that are made up and launches that do nothing."""
    own, autotuned = benchmarks
    case = own.CASES[0]
    function = own.kernel_of(case).function
    launched: list[dict[str, int]] = []
    monkeypatch.setattr(function, "run", lambda *_, **options: launched.append(options))

    def timed(call: Callable[[], None], quantiles: object) -> list[float]:
        call()
        config = launched[-1]
        return [abs(config["BLOCK"] - 2048) + config["ROWS"] + config["num_warps"] + config["num_stages"]] * 3

    monkeypatch.setattr(triton.runtime.driver, "_active", type("Driver", (), {"get_benchmarker": lambda _: timed})())
    on_the_cpu, zeros = torch.device("cpu"), torch.zeros
    monkeypatch.setattr(torch, "device", lambda _: on_the_cpu)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    request = {"example": case.path, "kernel": case.kernel, "problems": [SIZES], "space": {}, "seconds": 60}
    (tmp_path / "request").write_text(json.dumps(request))
    monkeypatch.setattr(sys, "argv", ["autotuned", str(tmp_path / "request"), str(tmp_path / "answer")])
    autotuned.main()
    (answer,) = json.loads((tmp_path / "answer").read_text())
    assert answer["config"] == {"ROWS": 1, "BLOCK": 2048, "num_warps": 2, "num_stages": 1}
    assert answer["grid"] == answer["launches"] == answer["launched"] == 92
    assert (answer["problem"], answer["left_out"], answer["failed"]) == (SIZES, 0, 0)


def test_the_summary_says_what_both_cost_and_found(benchmarks: tuple[ModuleType, ModuleType]) -> None:
    own, _ = benchmarks
    cost = {"launches": 900, "compiles": 12, "wall_s": 9.0, "problem": SIZES, "config": {"BLOCK": 64}}
    case = {
        "example": "softmax.py",
        "bo_tune": {"wall_s": 12.5, "problems": [{**cost, "launched_configs": 11}]},
        "autotune": {
            "wall_s": 80.0,
            "note": "killed",
            "problems": [{**cost, "launched": 40, "left_out": 4, "grid": 44}],
        },
        "in_turn_us": [{"bo_tune": 9.0, "autotune": 9.1}],
    }
    lines = list(own.summary([case]))
    assert lines[0] == "softmax.py: bo_tune: 12.5 s from start to end"
    assert "11 configs launched, 900 launches, 12 compiles, 9.0 s: {'BLOCK': 64}" in lines[1]
    assert lines[2] == "softmax.py: autotune: 80.0 s from start to end; killed"
    assert "40 configs launched, 900 launches, 12 compiles, 9.0 s, 4 of 44 left out" in lines[3]
    assert lines[4] == "  in turn, us: {'bo_tune': 9.0, 'autotune': 9.1}"
