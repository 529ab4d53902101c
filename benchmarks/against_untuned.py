"""An engine's kernels tuned, and timed against what the engine runs without tuned files. Used by other benchmarks.

Each problem is tuned as ``bo-tune tune`` does it. Then three configs are checked and timed in turn, in one GPU process:
what the engine runs where nothing was tuned (a file that it ships, else its rule), its rule, and the tuned config.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path
from typing import Any

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import Problem
from bo_tune.engines.folder import write_placed
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.search import StopRule
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.session.workers.measuring import at_once
from bo_tune.store.storage import StudyStore, silence_optuna

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 100
"""Of the last measurement, of all configs in turn."""


@dataclass(frozen=True)
class Line:
    """A problem, and its times in us. None for a config that could not be run, or was wrong.

    Attributes:
        layers: of the model, that pose it.
        untuned: what the engine runs without tuned files; ``rule``: where it ships none.
    """

    problem: str
    layers: Sequence[str]
    untuned: Mapping[str, int]
    rule: Mapping[str, int]
    tuned: Mapping[str, int]
    untuned_us: float | None
    rule_us: float | None
    tuned_us: float | None
    configs: int

    @property
    def speed_up(self) -> float | None:
        """Times as fast as what the engine runs."""
        return self.untuned_us / self.tuned_us if self.untuned_us and self.tuned_us else None


def folder_first(name: str) -> None:
    """Have an engine's modules found in a folder of the repository that git ignores, where it is there."""
    folder = ROOT / name
    if folder.is_dir():
        sys.path.insert(0, str(folder))


def run(
    source: str, problems: Mapping[Problem, Sequence[str]], out: Path, *, budget: int, jobs: int | None
) -> list[Line]:
    """Tune, write the engine's files and a report into a folder, and print a table.

    Args:
        source: the kernel source (``measure.source``).
        problems: each with the layers that pose it.
        budget: configs that each study launches at most.
        jobs: compile processes; None for one less than the cores.
    """
    silence_optuna()
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    device = GpuDevice(source=source, compile_workers=jobs)
    try:
        asked = [job_of(problem, device) for problem in problems]
        settings = at_once(SessionSettings(budget=budget, stop_rule=StopRule()), [device], len(asked))
        session = Session(StudyStore(MEMORY), settings)
        tuned = session.run(asked)
        tuning_s = time.perf_counter() - start
        paths = write_placed(out, session.entries(tuned))
        lines = [_line(device, one, problems[one.job.problem]) for one in tuned if one.result is not None]
        told = {
            "gpu": device.gpu.name,
            "versions": {**device.provenance, "python": sys.version.split()[0]},
            "source": device.kernel_source(next(iter(problems)).kernel),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
            "timing": f"{ROUNDS} rounds in turn, L2 cleared before each launch",
            "tuning_s": round(tuning_s, 1),
            "without_result": len(tuned) - len(lines),
        }
    finally:
        device.close()
    print(f"{told['gpu']}, {told['source']}: {len(asked)} problems tuned in {tuning_s:.0f} s")
    _show(lines)
    for path in paths:
        print(f"wrote {path}")
    report: dict[str, Any] = {**told, "problems": [{**asdict(line), "speed_up": line.speed_up} for line in lines]}
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return lines


def _line(device: GpuDevice, one: Tuned, layers: Sequence[str]) -> Line:
    assert one.result is not None
    problem, spec = one.job.problem, one.job.spec
    untuned, rule = device.default_config(spec, problem), spec.default_config(problem)
    configs = [untuned, rule, dict(one.result.config)]
    times = [estimate_us(us) if us else None for us in device.remeasure(problem, configs, ROUNDS).runtimes_us]
    return Line(problem.label, layers, *configs, *times, configs=one.launched_configs)


def _show(lines: Sequence[Line]) -> None:
    rows = [("problem", "untuned us", "rule us", "tuned us", "speed-up", "over rule", "configs", "tuned config")]
    for line in lines:
        over_rule = line.rule_us / line.tuned_us if line.rule_us and line.tuned_us else None
        config = " ".join(f"{name}={value}" for name, value in line.tuned.items())
        times = [_cell(time_us, 2) for time_us in (line.untuned_us, line.rule_us, line.tuned_us)]
        rows.append((line.problem, *times, _cell(line.speed_up, 3), _cell(over_rule, 3), str(line.configs), config))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    gains = [line.speed_up for line in lines if line.speed_up]
    if gains:
        mean = exp(sum(map(log, gains)) / len(gains))
        print(f"speed-up over what the engine runs: {mean:.3f} (geometric mean), {min(gains):.3f} to {max(gains):.3f}")


def _cell(number: float | None, digits: int) -> str:
    return "-" if number is None else f"{number:.{digits}f}"
