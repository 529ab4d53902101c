"""``bo-tune tune --m auto`` from the command line to the JSON, on a device in memory."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from helpers import H100, ROOT, SHRINK_TABLE, Cli, FakeDevice

from bo_tune.core.outcome import Compilation, LaunchPurpose, Outcome, Resources
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.measure.device import Build, Compiled, Remeasured
from bo_tune.session.workers import measuring

LLAMA = ROOT / "studies" / "models" / "llama-3.1-8b"
SPACE = SearchSpace.of(
    {
        "block_m": (16, 64), "block_n": (32,), "block_k": (64,), "num_warps": (4,), "num_stages": (2,), "split_k": (8,),
        "num_ctas": (1,),
    }
)  # fmt: skip

MEASURING = threading.Lock()
"""Studies share the device."""


class OverM(FakeDevice):
    """Small tiles are best up to about a thousand tokens, large ones above; the default is worse than both."""

    compile_workers = 1

    def time_us(self, problem: LoraProblem, config: Config) -> float:
        if config not in SPACE:
            return 1000.0
        return 10 + problem.m / 100 if config["block_m"] == 16 else 19 + problem.m / 1000

    def compile(self, problem: LoraProblem, config: Config) -> Future[Build]:
        future: Future[Build] = Future()
        future.set_result(Compiled(Compilation(), Resources()))
        return future

    def measure(
        self, problem: LoraProblem, config: Config, compiled: Compiled, *, stop_above_us: float | None
    ) -> Outcome:
        with MEASURING:
            self.times = lambda config: self.time_us(problem, config)
            return super().measure(problem, config, compiled, stop_above_us=stop_above_us)

    def remeasure(self, problem: LoraProblem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        times = [(self.time_us(problem, config),) * rounds for config in configs]
        return Remeasured(times, Counter({LaunchPurpose.FINALISTS: rounds * len(configs)}))


def run(cli: Cli, monkeypatch: pytest.MonkeyPatch, out: Path, *more: object) -> tuple[str, dict[str, Any]]:
    gpu = OverM(times=lambda config: 1.0, space=SPACE)
    monkeypatch.setattr(measuring, "forking", lambda *_, **__: nullcontext(measuring.Forks()))
    monkeypatch.setattr(measuring, "gpu_devices", lambda *_, **__: nullcontext([gpu]))
    options = ("--model", LLAMA, "--max-loras", 4, "--rank", 16, "--kernel", "lora_shrink", "--storage", "memory")
    ran = cli("tune", *options, "--out", out, "--target-modules", "o_proj,down_proj", "--sampler", "random", *more)
    assert (ran.code, ran.err) == (0, "")
    return ran.out, json.loads((out / SHRINK_TABLE).read_text())["5"]["1"]


@pytest.mark.slow
def test_keys_are_added_for_all_problems_that_share_them(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, entries = run(cli, monkeypatch, tmp_path / "auto", "--m", "auto")
    added = set(entries) - {str(2**power) for power in range(14)}
    assert added
    assert all(512 < int(m) < 2048 for m in added)
    assert all(set(level) == {"4096", "14336"} for level in entries.values())
    assert "Loss between keys m" in out
    assert " problems; 0 of" in out
    assert "--lora-target-modules o_proj down_proj" in out
    check = (
        "--model",
        LLAMA,
        "--max-loras",
        4,
        "--rank",
        16,
        "--gpu",
        H100.name,
        "--target-modules",
        "o_proj,down_proj",
    )
    ran = cli("check", tmp_path / "auto", *check)
    assert "EXPAND_TRUE.json" in ran.out
    assert ran.out.count("no entry for") == 0


def test_powers_of_two_are_the_default(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, entries = run(cli, monkeypatch, tmp_path / "plain")
    assert list(entries) == [str(2**power) for power in range(14)]
