"""Every sampler on every bundled recording: regret over launched configs, as a table, a plot and paired tests.

Runs what ``bo-tune simulate`` runs. Each (sampler, history, stop rule) is a variant; every variant tunes every
recording with the same seeds, so that variants are compared pair by pair (Wilcoxon's signed-rank test, one-sided).
``python benchmarks/samplers.py --recordings studies/recordings --seeds 10 --out benchmarks/results/samplers`` writes
samplers.json (all runs), samplers.md and samplers.png; what is run later with the same --out is added. Needs matplotlib
(``pip install -e '.[bench]'``).
"""

import argparse
import json
import os
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import optuna
from described import resources_known
from scipy.stats import wilcoxon

from bo_tune.analysis.simulate import CHECKPOINTS, Run, simulate
from bo_tune.core.choices import GRID_GP
from bo_tune.core.conclusion import StopRule
from bo_tune.core.space import Config
from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.formats.recording_format import DEFAULT_CONFIG
from bo_tune.session.session import SessionSettings
from bo_tune.tuning.bundled import bundled_grids

SLOW = {"gp": 40}
"""Largest budget of samplers that take a second a proposal."""


@dataclass(frozen=True)
class Variant:
    """One way to search.

    Attributes:
        history: whether the studies of the other recordings teach it.
        stop: whether the stop rule ends it.
        bundled: whether the grids that come with the package teach it, but for that of the very problem on that GPU.
            They are of the same recordings, and know more than the studies of ``history`` do.
        abroad: whether of these grids only those of other GPUs do, which are also of other kernel sources: what a GPU
            that is not among them can expect.
        elsewhere: a folder of other recordings whose studies teach it.
        resources: whether an oracle tells it what the binary of every config uses, compiled or not.
    """

    sampler: str
    history: bool = False
    stop: bool = False
    bundled: bool = False
    abroad: bool = False
    elsewhere: str = ""
    resources: bool = False

    def __str__(self) -> str:
        parts = [self.sampler]
        if self.bundled:
            parts.append("bundled, other GPUs" if self.abroad else "bundled")
        if self.history:
            parts.append("history")
        if self.elsewhere:
            parts.append(f"history from {self.elsewhere}")
        if self.resources:
            parts.append("resources")
        if self.stop:
            parts.append("stop rule")
        return " + ".join(parts)


VARIANTS = (
    Variant(GRID_GP),
    Variant(GRID_GP, history=True),
    Variant(GRID_GP, bundled=True),
    Variant(GRID_GP, bundled=True, abroad=True),
    Variant(GRID_GP, stop=True),
    Variant(GRID_GP, history=True, stop=True),
    Variant(GRID_GP, bundled=True, stop=True),
    Variant(GRID_GP, bundled=True, abroad=True, stop=True),
    Variant("coordinate"),
    Variant("coordinate-restarts"),
    Variant("tpe"),
    Variant("gp"),
    Variant("random"),
)
ORACLES = (Variant(GRID_GP, resources=True), Variant(GRID_GP, history=True, resources=True))


def run(variant: Variant, folder: Path, budget: int, default: Config, seed: int) -> list[Run]:
    """Tune all recordings with one variant and one seed. With history, the other problems' studies come first.

    Args:
        default: what the engine is taken to run of each where nothing is tuned; as recorded where it is empty.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recordings = read_recordings(folder)
    if default:
        recordings = [replace(r, metadata={**r.metadata, DEFAULT_CONFIG: dict(default)}) for r in recordings]
    budget = min(budget, SLOW.get(variant.sampler, budget))
    rule = StopRule() if variant.stop else None
    settings = SessionSettings(variant.sampler, budget, stop_rule=rule, bundled=variant.bundled)
    history = recordings if variant.history else []
    if variant.elsewhere:
        history = [*history, *read_recordings(Path(variant.elsewhere))]
    with (
        resources_known([*recordings, *history]) if variant.resources else nullcontext(),
        of_other_gpus(recordings) if variant.abroad else nullcontext(),
    ):
        return list(simulate(recordings, settings, seeds=[seed], history=history))


@contextmanager
def of_other_gpus(recordings: Sequence[Recording]) -> Iterator[None]:
    """Leave out the bundled grids of these recordings' GPUs."""
    own = {recording.gpu.name for recording in recordings}
    kept = tuple(grid for grid in bundled_grids() if grid.name.gpu not in own)
    with patch("bo_tune.tuning.history.bundled_grids", lambda: kept):
        yield


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


def comparison(ours: str, others: Iterable[str], results: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return the table of what one variant saves over others."""
    lines = [
        "",
        f"Mean regret that {ours} saves over the other in paired runs, in points (p, Wilcoxon, one-sided):",
        "",
    ]
    lines += [f"| against | {' | '.join(map(str, CHECKPOINTS))} |", "|---|" + "---|" * len(CHECKPOINTS)]
    return lines + [f"| {name} | {paired(results[ours], results[name])} |" for name in others if name in results]


def certificates(results: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return the table of how often certificates are right."""
    lines = ["", "Certificates at the stop (problem and seed a run):", ""]
    lines += ["| probability | runs | mean probability | best launched within 1 % | written within 1 % |"]
    lines += ["|---|---|---|---|---|"]
    for name, runs in results.items():
        if "stop" in name:
            lines += [f"| {name} | | | | |", *calibration(runs)]
    return lines


def by_recording(name: str, runs: Sequence[Run], at: str = "40") -> list[str]:
    """Return the regrets of one variant, recording by recording."""
    found: dict[str, list[float]] = defaultdict(list)
    for r in runs:
        if at in r.regret_percent:
            found[r.recording].append(r.regret_percent[at])
    lines = ["", f"{name} at {at}, by recording (mean / worst):", ""]
    return lines + [f"- {recording}: {np.mean(v):.2f} / {np.max(v):.2f}" for recording, v in sorted(found.items())]


def report(results: Mapping[str, Sequence[Run]], heading: str) -> str:
    """Return the Markdown report."""
    at = " | ".join([*map(str, CHECKPOINTS), "final"])
    lines = [heading, ""]
    lines += ["Regret in %: median / **mean** / p90; mean of the best launched config, whether or not it was"]
    lines += ["chosen; share of runs within 1 % / 5 %.", ""]
    lines += [f"| variant | {at} | launched | ms/proposal |", "|---|" + "---|" * (len(CHECKPOINTS) + 3)]
    lines += [row(name, runs) for name, runs in results.items()]
    baselines = [name for name in results if not name.startswith(GRID_GP)]
    for ours in map(str, VARIANTS[:4]):
        if ours in results and baselines:
            lines += comparison(ours, baselines, results)
    if any(str(oracle) in results for oracle in ORACLES):
        lines += [
            "",
            "What features from binaries could give at most: an oracle that tells shared memory, registers and",
        ]
        lines += ["spills of every config, compiled or not. Positive where it helps."]
    for oracle, plain in zip(ORACLES, VARIANTS[:2], strict=True):
        if str(oracle) in results and str(plain) in results:
            lines += comparison(str(oracle), [str(plain)], results)
    if any("stop" in name for name in results):
        lines += certificates(results)
    for name, runs in results.items():
        if name in map(str, VARIANTS[:4]) or "history from" in name:
            lines += by_recording(name, runs)
    return "\n".join(lines) + "\n"


def plot(results: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Draw mean regret over launched configs, a line for each variant without a stop rule."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    for name, runs in results.items():
        if "stop" in name or "resources" in name:
            continue
        points = [(c, np.mean(list(found.values()))) for c in CHECKPOINTS if (found := regrets(runs, str(c)))]
        style = {"linewidth": 2.5} if name.startswith(GRID_GP) else {"linewidth": 1.2, "linestyle": "--"}
        axes.plot(*zip(*points, strict=True), marker="o", label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="launched configs", ylabel="mean regret, %")
    axes.set_xticks(CHECKPOINTS, [str(c) for c in CHECKPOINTS])
    axes.set_xticks([], minor=True)
    axes.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
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
    parser.add_argument(
        "--default",
        type=config_of,
        default={},
        metavar="NAME=VALUE,…",
        help="where searches begin, for recordings whose own default was tuned by somebody",
    )
    parser.add_argument("--abroad", action="store_true", help="only grid-gp taught by the bundled grids of other GPUs")
    parser.add_argument("--oracle", action="store_true", help="only grid-gp told the resources of every binary")
    parser.add_argument("--elsewhere", default="", help="only grid-gp taught by the studies of this folder")
    parser.add_argument("--note", help="a paragraph for the head of the report; kept until replaced")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/samplers"))
    options = parser.parse_args()
    elsewhere = (Variant(GRID_GP, elsewhere=options.elsewhere),) if options.elsewhere else ()
    abroad = tuple(v for v in VARIANTS if v.abroad and options.abroad)
    only = elsewhere or abroad or (ORACLES if options.oracle else ())
    chosen = only or [v for v in VARIANTS if not options.samplers or v.sampler in options.samplers]
    write(chosen, options)


def config_of(text: str) -> dict[str, int]:
    """Read a config of the command line."""
    return {name: int(value) for name, _, value in (word.partition("=") for word in text.split(","))}


def write(chosen: Sequence[Variant], options: argparse.Namespace) -> None:
    """Run variants, and write them with those run before."""
    path = _beside(options.out, ".json")
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results = {name: [Run(**r) for r in runs] for name, runs in before.get("runs", {}).items()}
    asked = options.recordings, options.budget, options.default
    with ProcessPoolExecutor(options.jobs) as pool:
        futures = {v: [pool.submit(run, v, *asked, seed) for seed in range(options.seeds)] for v in chosen}
        for variant, parts in futures.items():
            results[str(variant)] = [r for part in parts for r in part.result()]
            print(row(str(variant), results[str(variant)]), flush=True)
    order = [str(v) for v in (*VARIANTS, *ORACLES)]
    known = [*(n for n in order if n in results), *(n for n in results if n not in order)]
    results = {name: results[name] for name in known}
    command = f"python {shlex.join(sys.argv)}, {datetime.now(UTC):%Y-%m-%d}"
    commands = [*before.get("commands", []), *([command] if chosen else [])]
    note = before.get("note", "") if options.note is None else options.note
    heading = f"# Samplers on {options.recordings}\n\n" + "\n".join(f"- `{c}`" for c in commands)
    heading += f"\n\n{note}" if note else ""
    document = {
        "commands": commands,
        "note": note,
        "runs": {name: [asdict(r) for r in runs] for name, runs in results.items()},
    }
    path.write_text(json.dumps(document) + "\n")
    _beside(options.out, ".md").write_text(report(results, heading))
    plot(results, _beside(options.out, ".png"))


def _beside(out: Path, suffix: str) -> Path:
    """The path with an ending more; the name may have dots of its own."""
    return out.with_name(out.name + suffix)


if __name__ == "__main__":
    main()
