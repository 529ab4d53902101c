"""Joint tuning of the four fused MoE LoRA kernels on their recordings: regret, and what agreeing on block_m costs.

    python benchmarks/moe.py --recordings studies/recordings/moe --seeds 20 --out benchmarks/results/moe.md

Runs what ``bo-tune simulate`` runs, without and with history (the studies of the other m, tuned first with the same
seed) and the grids that come with the package (of the other m), to a budget and with the stop rule. Regret is that of
the four times' sum, over the least sum of recorded times under one block_m.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import optuna

from bo_tune.analysis.simulate import Run, simulate
from bo_tune.core.choices import GRID_GP
from bo_tune.core.conclusion import StopRule
from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.measure.devices import replay_job, together
from bo_tune.session.session import SessionSettings
from bo_tune.tuning.joint.choice import best_by_value, best_recorded_us, sums_by_value

BUDGETS = (20, 30)
FINAL = "final"


@dataclass(frozen=True)
class Variant:
    """One way to search."""

    sampler: str = GRID_GP
    budget: int = 30
    history: bool = False
    stop: bool = False
    bundled: bool = False

    def __str__(self) -> str:
        parts = {"bundled": self.bundled, "history": self.history, "stop rule": self.stop}
        more = "".join(f" + {name}" for name, there in parts.items() if there)
        return f"{self.sampler}, ≤ {self.budget} per kernel{more}"


VARIANTS = (
    *(Variant(budget=budget, history=history) for budget in BUDGETS for history in (False, True)),
    *(Variant(budget=budget, bundled=True) for budget in BUDGETS),
    *(Variant(history=history, stop=True) for history in (False, True)),
    Variant(bundled=True, stop=True),
    Variant("coordinate"),
    Variant("random"),
)


def run(variant: Variant, folder: Path, seed: int) -> list[Run]:
    """Tune all problems with one variant and one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recordings = read_recordings(folder)
    rule = StopRule() if variant.stop else None
    settings = SessionSettings(variant.sampler, variant.budget, stop_rule=rule, bundled=variant.bundled)
    return list(simulate(recordings, settings, seeds=[seed], history=recordings if variant.history else ()))


def groups(recordings: Sequence[Recording]) -> list[list[Recording]]:
    """Return the recordings of each problem, by m."""
    jobs = [replay_job(recording) for recording in recordings]
    of_job = {id(job): recording for job, recording in zip(jobs, recordings, strict=True)}
    return sorted(([of_job[id(job)] for job in group] for group in together(jobs)), key=lambda g: g[0].problem.m)


def agreement(recordings: Sequence[Recording]) -> Iterable[str]:
    """Say what agreeing on block_m costs, a line of the table for each problem."""
    yield "| m | default, us | best apart, us | best that agree, us | block_m | cost of agreeing | against default |"
    yield "|---|---|---|---|---|---|---|"
    for group in groups(recordings):
        default = sum(recording.time_us(recording.default_config) or np.nan for recording in group)
        apart = sum(recording.best_time_us for recording in group)
        times = [((dict(k), e.time_us) for k, e in r.entries.items() if e.time_us is not None) for r in group]
        sums = sums_by_value([best_by_value(of_kernel) for of_kernel in times])
        agreed = best_recorded_us(group)
        block = min(sums, key=sums.__getitem__)
        cells = [f"{default:.1f}", f"{apart:.1f}", f"{agreed:.1f}", str(block), f"{100 * (agreed / apart - 1):.1f} %"]
        yield f"| {group[0].problem.m} | {' | '.join(cells)} | {default / agreed:.2f}× |"


def regrets(results: Mapping[Variant, Sequence[Run]], names: Sequence[str]) -> Iterable[str]:
    """Tabulate regrets, a variant a row: mean / worst by problem; share within 1 %; configs launched."""
    yield "| variant | " + " | ".join(map(m_of, names)) + " | within 1 % | launched, of the kernel with most |"
    yield "|---|" + "---|" * (len(names) + 2)
    for variant, runs in results.items():
        cells = []
        for name in names:
            found = np.array([r.regret_percent[FINAL] for r in runs if r.recording == name])
            cells.append(f"**{found.mean():.2f}** / {found.max():.2f}")
        everything = np.array([r.regret_percent[FINAL] for r in runs])
        launched = np.mean([r.launched_configs for r in runs])
        yield f"| {variant} | {' | '.join(cells)} | {100 * np.mean(everything <= 1):.0f} % | {launched:.1f} |"


def m_of(name: str) -> str:
    """Return the m in a run's name: ``m 16``."""
    return "m " + name.split(".m")[1].split(".")[0]


def certificates(results: Mapping[Variant, Sequence[Run]]) -> Iterable[str]:
    """Say how often studies that the stop rule ended are what their certificates say."""
    yield "| variant | certified at 0.9 | mean probability | best launched within 1 % | written within 1 % |"
    yield "|---|---|---|---|---|"
    for variant, runs in results.items():
        sure = [r for r in runs if variant.stop and r.certificate and r.certificate["probability"] > 0.9]
        if sure:
            claimed = np.mean([r.certificate["probability"] for r in sure if r.certificate])
            found, written = (
                100 * np.mean([figure(r)[FINAL] <= 1 for r in sure])
                for figure in (lambda r: r.found_percent, lambda r: r.regret_percent)
            )
            yield f"| {variant} | {len(sure)} of {len(runs)} | {claimed:.2f} | {found:.0f} % | {written:.0f} % |"


def report(recordings: Sequence[Recording], results: Mapping[Variant, Sequence[Run]], command: str, seeds: int) -> str:
    """Return the Markdown report."""
    names = [run.recording for run in next(iter(results.values()))[: len(groups(recordings))]]
    ordered = sorted(names, key=lambda name: int(m_of(name).split()[1]))
    lines = [
        "# Fused MoE LoRA: four kernels, one block_m",
        "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {seeds} seeds, on recorded grids of "
        f"{recordings[0].gpu.name} ({recordings[0].kernel_source}).",
        "",
        "## What agreeing costs",
        "",
        "Sums of the four kernels' recorded times: the defaults, the best of each, the best under one block_m.",
        "",
        *agreement(recordings),
        "",
        "## Joint tuning",
        "",
        "Regret of the sum of the four times over the best that agree, in %: **mean** / worst of the seeds.",
        "",
        *regrets(results, ordered),
        "",
        "## Certificates",
        "",
        *certificates(results),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=Path("studies/recordings/moe"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/moe.md"))
    options = parser.parse_args()
    results: dict[Variant, list[Run]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = {v: [pool.submit(run, v, options.recordings, s) for s in range(options.seeds)] for v in VARIANTS}
        for variant, parts in futures.items():
            results[variant] = [r for part in parts for r in part.result()]
            print(variant, np.mean([r.regret_percent[FINAL] for r in results[variant]]), flush=True)
    command = "python " + shlex.join(sys.argv)
    options.out.write_text(report(read_recordings(options.recordings), results, command, options.seeds))


if __name__ == "__main__":
    main()
