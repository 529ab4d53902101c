"""``benchmarks/championship.py`` on a bundled grid and on a file of another project's, in seconds."""

import gzip
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import ROOT, script

EXPAND = ROOT / "studies" / "recordings" / "h100.lora_expand.L4.s1.m16.k16.n4096.t4.json.gz"


@pytest.fixture
def championship(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, as it finds the modules beside it."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = script(ROOT / "benchmarks" / "championship.py")
    monkeypatch.setitem(sys.modules, "championship", module)
    return module


def foreign(path: Path, gpu: str, best: int) -> None:
    """Write a grid of 40 configs, of which five are not allowed and five do not run."""
    results = []
    for x in range(1, 11):
        for y in (1, 2, 4, 8):
            if x == 3 or (x == 9 and y == 8):
                continue
            time = 1.0 + abs(x - best) + y / 10
            invalid = y == 4 and x > 5
            entry = {"configuration": {"x": x, "y": y}, "invalidity": "runtime" if invalid else "correct"}
            entry |= {
                "times": {"runtimes": [time, time * 1.01, time]},
                "measurements": [{"name": "time", "value": time}],
            }
            results.append(entry)
    path.joinpath(f"made.{gpu}.t4.json.gz").write_bytes(gzip.compress(json.dumps({"results": results}).encode()))


def test_reads_what_others_measured(championship: ModuleType, tmp_path: Path) -> None:
    foreign(tmp_path, "A", best=6)
    grid = championship.grids_of(str(tmp_path))["made.A"]
    assert (grid.kernel, grid.gpu, len(grid.grid), int(grid.grid.valid.sum())) == ("made", "A", 36, 35)
    assert grid.best == 1.1
    broken = grid.grid.index({"x": 6, "y": 4})
    best = grid.grid.index({"x": 6, "y": 1})
    assert grid.launch(broken, 0) == ()
    assert np.isinf(grid.regret([broken], 0))
    assert grid.regret([broken, best], 0) == 0.0


def test_is_played_to_the_end_and_goes_on_where_it_stopped(
    championship: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for gpu, best in (("A", 6), ("B", 7)):
        foreign(tmp_path, gpu, best)
    names = ["grid-gp", "grid-gp + other GPUs", "random"]
    wanted = list(championship.matches([str(tmp_path)], names, seeds=1, budget=10))
    assert len(wanted) == 2 * 3
    path = tmp_path / "runs.jsonl"
    first = championship.play_all(wanted[:3], path, jobs=1)
    monkeypatch.setattr(championship, "play", None)
    assert championship.play_all(wanted[:3], path, jobs=1) == first
    monkeypatch.undo()
    again = [championship.play(match) for match in wanted]
    assert {one.match: one.regret for one in again if one.match in first} == {m: p.regret for m, p in first.items()}
    championship.write(again, tmp_path / "out", "a command")
    report = tmp_path / "out.md"
    assert "| grid-gp + other GPUs |" in report.read_text()
    report.write_text(report.read_text().replace(f"{championship.NOTE}\n", f"{championship.NOTE}\nMissed.\n", 1))
    championship.write(again, tmp_path / "out", "another command")
    assert f"{championship.NOTE}\nMissed.\n{championship.NOTE}" in report.read_text()


def test_a_bundled_grid_is_searched_as_a_session_searches_it(championship: ModuleType, tmp_path: Path) -> None:
    (tmp_path / EXPAND.name).symlink_to(EXPAND)
    (grid,) = championship.grids_of(str(tmp_path)).values()
    played = championship.play(championship.Match(str(tmp_path), grid.name, "grid-gp", 0, 20))
    assert grid.default is not None
    assert played.launched == 20
    assert played.regret["20"] < 0.05


@pytest.mark.skipif(find_spec("kernel_tuner") is None, reason="needs the extra bench")
@pytest.mark.parametrize("strategy", ["kt hybrid_vndx", "kt adaptive_tabu_greywolf"])
def test_kernel_tuner_plays_too(championship: ModuleType, tmp_path: Path, strategy: str) -> None:
    foreign(tmp_path, "A", best=6)
    played = championship.play(championship.Match(str(tmp_path), "made.A", strategy, 0, 20))
    assert played.launched == 20
    assert played.regret["20"] < 1.0
