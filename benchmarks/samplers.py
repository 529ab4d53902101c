"""Every sampler on every bundled recording: regret over launched configs, as a table, a plot and paired tests.

Runs what ``bo-tune simulate`` runs. Each (sampler, history, stop rule) is a variant; every variant tunes every
recording with the same seeds, so that variants are compared pair by pair (Wilcoxon's signed-rank test, one-sided).
``python benchmarks/samplers.py --recordings studies/recordings --seeds 10 --out benchmarks/results/samplers`` writes
samplers.json (all runs), samplers.md and samplers.png. Needs matplotlib (``pip install -e '.[bench]'``).
"""

import argparse
import json
import os
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
from scipy.stats import wilcoxon

from bo_tune.recording import read_recordings
from bo_tune.sampler_names import GRID_GP
from bo_tune.search import StopRule
from bo_tune.session import SessionSettings
from bo_tune.simulate import CHECKPOINTS, Run, simulate

SLOW = {"gp": 40}
"""Largest budget of samplers that take a second a proposal."""


@dataclass(frozen=True)
class Variant:
    """One way to search."""

    sampler: str
    history: bool = False
    stop: bool = False

    def __str__(self) -> str:
        return self.sampler + (" + history" if self.history else "") + (" + stop rule" if self.stop else "")


VARIANTS = (
    Variant(GRID_GP),
    Variant(GRID_GP, history=True),
    Variant(GRID_GP, stop=True),
    Variant(GRID_GP, history=True, stop=True),
    Variant("coordinate"),
    Variant("coordinate-restarts"),
    Variant("tpe"),
    Variant("gp"),
    Variant("random"),
)


def run(variant: Variant, folder: Path, budget: int, seed: int) -> list[Run]:
    """Tune all recordings with one variant and one seed. With history, the other problems' studies come first."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recordings = read_recordings(folder)
    settings = SessionSettings(
        variant.sampler, min(budget, SLOW.get(variant.sampler, budget)), stop_rule=StopRule() if variant.stop else None
    )
    return list(simulate(recordings, settings, seeds=[seed], history=recordings if variant.history else ()))


def regrets(runs: Iterable[Run], at: str, figure: str = "regret_percent") -> dict[tuple[str, int], float]:
    """Return regrets by recording and seed, of the runs that reached a checkpoint."""
    return {(r.recording, r.seed): getattr(r, figure)[at] for r in runs if at in getattr(r, figure)}


def row(variant: str, runs: Sequence[Run]) -> str:
    """Return a line of the table."""
    cells = []
    for at in (*map(str, CHECKPOINTS), "final"):
        found = np.array(list(regrets(runs, at).values()))
        if len(found) < len(runs):  # a stop rule or a small budget kept some from getting there
            cells.append("–")
            continue
        search = np.mean(list(regrets(runs, at, "found_percent").values()))
        shares = f"{100 * np.mean(found <= 1):.0f}/{100 * np.mean(found <= 5):.0f}"
        cells.append(
            f"{np.median(found):.2f} / **{found.mean():.2f}** / {np.quantile(found, 0.9):.2f}; {search:.2f}; {shares}"
        )
    launched = np.mean([r.launched_configs for r in runs])
    return (
        f"| {variant} | {' | '.join(cells)} | {launched:.1f} | {np.mean([r.sampler_ms_per_trial for r in runs]):.1f} |"
    )


def paired(ours: Sequence[Run], theirs: Sequence[Run]) -> str:
    """Return p values that ours has the smaller regret, by checkpoint."""
    cells = []
    for at in map(str, CHECKPOINTS):
        a, b = regrets(ours, at), regrets(theirs, at)
        pairs = sorted(a.keys() & b.keys())
        if not pairs:
            cells.append("–")
            continue
        differences = np.array([a[p] - b[p] for p in pairs])
        p = wilcoxon(differences, alternative="less").pvalue if differences.any() else 1.0
        cells.append(f"{-differences.mean():+.2f} ({p:.1g})")
    return " | ".join(cells)


def calibration(runs: Sequence[Run]) -> list[str]:
    """Say how often certified problems are what the certificate says."""
    lines = []
    for least in (0.9, 0.8, 0.5):
        sure = [r for r in runs if r.certificate and r.certificate["probability"] >= least]
        if not sure:
            continue
        claimed = np.mean([r.certificate["probability"] for r in sure if r.certificate])
        found = np.mean([r.found_percent["final"] <= 1 for r in sure])
        written = np.mean([r.regret_percent["final"] <= 1 for r in sure])
        lines.append(f"| ≥ {least} | {len(sure)} of {len(runs)} | {claimed:.2f} | {found:.2f} | {written:.2f} |")
    return lines


def report(results: Mapping[str, Sequence[Run]], heading: str) -> str:
    """Return the Markdown report."""
    at = " | ".join([*map(str, CHECKPOINTS), "final"])
    lines = [
        heading,
        "",
        "Regret in %: median / **mean** / p90; mean of the best launched config, whether or not it was",
    ]
    lines += ["chosen; share of runs within 1 % / 5 %.", ""]
    lines += [f"| variant | {at} | launched | ms/proposal |", "|---|" + "---|" * (len(CHECKPOINTS) + 3)]
    lines += [row(name, runs) for name, runs in results.items()]
    lines += [
        "",
        "Mean regret that grid-gp (no history) saves over the other in paired runs, in points (p, Wilcoxon):",
        "",
    ]
    lines += [f"| against | {' | '.join(map(str, CHECKPOINTS))} |", "|---|" + "---|" * len(CHECKPOINTS)]
    ours = results.get(GRID_GP, ())
    lines += [f"| {name} | {paired(ours, runs)} |" for name, runs in results.items() if not name.startswith(GRID_GP)]
    lines += ["", "Certificates at the stop (problem and seed a run):", ""]
    lines += [
        "| probability | runs | mean probability | best launched within 1 % | written within 1 % |",
        "|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        if "stop" in name:
            lines += [f"| {name} | | | | |", *calibration(runs)]
    by_recording: dict[str, list[float]] = defaultdict(list)
    for r in ours:
        if "40" in r.regret_percent:
            by_recording[r.recording].append(r.regret_percent["40"])
    lines += ["", "grid-gp, no history, at 40, by recording (mean / worst):", ""]
    lines += [f"- {name}: {np.mean(v):.2f} / {np.max(v):.2f}" for name, v in sorted(by_recording.items())]
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Draw mean regret over launched configs, a line for each variant without a stop rule."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for name, runs in results.items():
        if "stop" in name:
            continue
        points = [(c, np.mean(list(found.values()))) for c in CHECKPOINTS if (found := regrets(runs, str(c)))]
        style = {"linewidth": 2.5} if name.startswith(GRID_GP) else {"linewidth": 1.2, "linestyle": "--"}
        axes.plot(*zip(*points, strict=True), marker="o", label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="launched configs", ylabel="mean regret, %")
    axes.set_xticks(CHECKPOINTS, [str(c) for c in CHECKPOINTS])
    axes.set_xticks([], minor=True)
    axes.set_yticks([0.3, 1, 3, 10, 30], ["0.3", "1", "3", "10", "30"])
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=Path("studies/recordings"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=80)
    parser.add_argument("--samplers", nargs="*", help="only these samplers; the others' runs in OUT.json are kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/samplers"))
    options = parser.parse_args()
    path = options.out.with_suffix(".json")
    kept: dict[str, Any] = json.loads(path.read_text())["runs"] if path.exists() else {}
    results = {name: [Run(**r) for r in runs] for name, runs in kept.items()}
    chosen = [v for v in VARIANTS if not options.samplers or v.sampler in options.samplers]
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = {
            v: [pool.submit(run, v, options.recordings, options.budget, s) for s in range(options.seeds)]
            for v in chosen
        }
        for variant, parts in futures.items():
            results[str(variant)] = [r for part in parts for r in part.result()]
            print(row(str(variant), results[str(variant)]), flush=True)
    results = {str(v): results[str(v)] for v in VARIANTS if str(v) in results}
    command = "python " + shlex.join(sys.argv)
    heading = f"# Samplers on {options.recordings}\n\n`{command}`, {datetime.now(UTC):%Y-%m-%d}, {options.seeds} seeds."
    document = {"command": command, "runs": {name: [asdict(r) for r in runs] for name, runs in results.items()}}
    path.write_text(json.dumps(document) + "\n")
    options.out.with_suffix(".md").write_text(report(results, heading))
    plot(results, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
