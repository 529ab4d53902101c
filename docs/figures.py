"""Draws the figures of ``how-it-works.md`` from recorded grids and stored results.

``python docs/figures.py`` writes them all into ``docs/images``; names after it draw some. ``make docs`` runs it. Needs
matplotlib (``pip install -e '.[bench]'``). Nothing is measured: studies are replayed from ``studies/recordings``.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from bo_tune.analysis.simulate import CHECKPOINTS, found_percent
from bo_tune.core.choices import GRID_GP, MEMORY
from bo_tune.core.outcome import LATE_FACTOR, on_time
from bo_tune.core.space import config_key
from bo_tune.formats.recording import Recording, read_recording, read_recordings
from bo_tune.measure.devices import replay_job
from bo_tune.processes.threads import one_blas_thread
from bo_tune.search.gp.prior import SQUEEZE
from bo_tune.search.sampler import FiniteGridSampler
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.tuner import Tuner

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RECORDINGS = ROOT / "studies" / "recordings"
SAMPLERS = ROOT / "benchmarks" / "results" / "samplers.json"
SHRINK = "h100.lora_shrink.L8.s1.m4096.k4096.n16.t4.json.gz"
SHORT = "h100.lora_expand.L4.s1.m16.k16.n4096.t4.json.gz"

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#D55E00", "#009E73", "#CC3311", "#777777"
"""Told apart by those who see few colours, too (Okabe and Ito)."""

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.facecolor": "white",  # so that a dark page does not swallow black letters
    "savefig.facecolor": "white",
    "legend.frameon": False,
}

Array = NDArray[np.float64]


def study_of(recording: Recording, history: StudyStore, seed: int = 0, budget: int = 80) -> Tuner:
    """Return the study of a replayed recording, before its first trial."""
    session = Session(StudyStore(MEMORY), SessionSettings(GRID_GP, budget, seed=seed, bundled=False), history=history)
    return session.opener.open(replay_job(recording, seed=seed))[1]


def predicted(tuner: Tuner, recording: Recording) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return what a study's surrogate makes of the recorded configs.

    Returns:
        Recorded times and predicted medians, in us, and whether each was tried; ``[n]`` each.
    """
    assert isinstance(tuner.sampler, FiniteGridSampler)
    log, model = tuner.sampler.log(tuner.memory), tuner.sampler.model(tuner.memory)
    configs = [tuner.sampler.grid.configs[index] for index in np.flatnonzero(tuner.sampler.grid.valid)]
    times = [recording.entries[config_key(config)].time_us for config in configs]  # type: ignore[arg-type]
    there = np.array([time is not None for time in times])
    asked = np.flatnonzero(tuner.sampler.grid.valid)[there]
    posterior, scale = model.posterior(log.observations, asked)
    mean, _ = posterior.predict(asked)
    truth = np.array([time for time in times if time is not None])
    return truth, np.exp(scale.shift + unsqueezed(mean)), np.asarray(log.finished[asked])


def unsqueezed(targets: Array) -> Array:
    """Return the log times of a surrogate's targets (see ``search.prior.squeeze``)."""
    over = SQUEEZE + SQUEEZE * np.expm1((targets - SQUEEZE) / SQUEEZE)
    return np.where(targets > SQUEEZE, over, targets)


def surrogate() -> None:
    """Draw prediction against truth after 10, 20 and 40 configs of a recorded grid."""
    recording = read_recording(RECORDINGS / SHRINK)
    tuner = study_of(recording, StudyStore(MEMORY))
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), sharex=True, sharey=True, layout="constrained")
    for place, launched in zip(axes, (10, 20, 40), strict=True):
        tuner.search(launched)
        truth, median, tried = predicted(tuner, recording)
        place.loglog(truth[~tried], median[~tried], ".", markersize=2, color=BLUE, alpha=0.35, label="untried")
        place.loglog(truth[tried], median[tried], "o", markersize=4, color=ORANGE, label="launched")
        place.plot([1, 1e4], [1, 1e4], color="black", linewidth=0.8)
        place.axvline(truth.min(), color=GREEN, linewidth=1, label="best of the grid")
        place.set(title=f"after {launched} configs", xlabel="recorded, us")
        place.set(xlim=(truth.min() * 0.85, truth.max() * 1.15), ylim=(truth.min() * 0.85, 300))
        place.set_yticks([30, 100, 300])
        place.set_xticks([30, 100, 300, 1000])
        plain(place)
    axes[0].set(ylabel="predicted, us")
    axes[0].legend(loc="lower right", markerscale=1.5)
    save(figure, "surrogate.png")


def convergence() -> None:
    """Draw mean regret over launched configs, from the stored runs of every sampler."""
    runs = json.loads(SAMPLERS.read_text())["runs"]
    names = {
        "random": ("random", GREY, "--"),
        "gp": ("Optuna GP", GREY, ":"),
        "tpe": ("Optuna TPE", GREEN, "--"),
        "coordinate": ("coordinate descent", RED, "--"),
        "grid-gp": ("grid-gp", BLUE, "-"),
        "grid-gp + bundled": ("grid-gp, taught by the\nbundled grids", ORANGE, "-"),
    }
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for name, (label, colour, line) in names.items():
        points = [(at, mean) for at in CHECKPOINTS if (mean := mean_regret(runs[name], str(at))) is not None]
        x, y = zip(*points, strict=True)
        axes.loglog(x, y, line, marker="o", color=colour, linewidth=2.2 if line == "-" else 1.4)
        below = -14 if x[-1] < CHECKPOINTS[-1] else 0
        axes.annotate(label, (x[-1], y[-1]), (8, below), textcoords="offset points", color=colour, va="center")
    axes.set(xlabel="configs launched", ylabel="mean regret, %", xlim=(9, 190))
    axes.set_xticks(CHECKPOINTS, [str(at) for at in CHECKPOINTS])
    axes.set_xticks([], minor=True)
    plain(axes, x=False)
    save(figure, "convergence.png")


def mean_regret(runs: Sequence[dict[str, Any]], at: str) -> float | None:
    """Return the mean regret of runs at a checkpoint, in %; None where some did not get there."""
    found = [run["regret_percent"][at] for run in runs if at in run["regret_percent"]]
    return float(np.mean(found)) if len(found) == len(runs) else None


def timing() -> None:
    """Draw how raw repetitions spread around the lower quartile of their config, on two recorded grids."""
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    bins = np.geomspace(0.8, 20, 90)
    for name, colour in ((SHORT, ORANGE), (SHRINK, BLUE)):
        recording = read_recording(RECORDINGS / name)
        rows = [entry.runtimes_us for entry in recording.entries.values() if entry.runtimes_us]
        ratios = np.concatenate([np.array(row) / np.quantile(row, 0.25) for row in rows])
        late = 1 - sum(len(on_time(row)) for row in rows) / sum(map(len, rows))
        label = f"{recording.problem.kernel}, m {recording.problem.m}: {100 * late:.1f} % late"
        weights = np.full(len(ratios), 100 / len(ratios))
        axes.hist(ratios, bins, weights=weights, histtype="step", color=colour, linewidth=1.6, label=label)
    axes.axvspan(LATE_FACTOR, bins[-1], color=GREY, alpha=0.12, linewidth=0)
    axes.text(LATE_FACTOR * 1.04, 75, f"late: over {LATE_FACTOR} ×", color=GREY, va="top")
    axes.set(xscale="log", yscale="log", xlabel="repetition / lower quartile of its config", xlim=(0.8, 20))
    axes.set(ylabel="share of repetitions, %", ylim=(5e-4, 100))
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.85))
    plain(axes)
    save(figure, "timing.png")


def certificate() -> None:
    """Draw how often studies that claim a probability are right, at every trial of replayed studies."""
    grids = [read_recordings(folder) for folder in (RECORDINGS, RECORDINGS / "h200")]
    figure, axes = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    edges = np.array([0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.001])
    for taught, colour, label in ((False, BLUE, "alone"), (True, ORANGE, "other problems as history")):
        claims = np.array([pair for those in grids for pair in claimed(those, seeds=range(5), taught=taught)])
        bins = np.digitize(claims[:, 0], edges)
        rows = [claims[bins == number] for number in range(1, len(edges))]
        points = [(row[:, 0].mean(), row[:, 1].mean(), len(row)) for row in rows if len(row) >= 20]
        x, y, counts = zip(*points, strict=True)
        axes.plot(x, y, "-", color=colour, linewidth=1.6, label=label, alpha=0.8)
        axes.scatter(x, y, [10 + count / 5 for count in counts], color=colour, alpha=0.8)
    axes.axvspan(0.9, 1, color=GREEN, alpha=0.12, linewidth=0)
    axes.text(0.89, 0.04, "a study ends", color=GREEN, ha="right")
    axes.text(0.47, 0.41, "as often as claimed", rotation=39, ha="center")
    axes.set(xlabel="claimed: within 1 % of the best", ylabel="share that is", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower right", bbox_to_anchor=(0.9, 0.1))
    save(figure, "certificate.png")


def claimed(recordings: Sequence[Recording], *, seeds: Sequence[int], taught: bool) -> Iterator[tuple[float, bool]]:
    """Yield what replayed studies claim after each of 8 to 60 configs, and whether it is so."""
    for seed in seeds:
        history = StudyStore(MEMORY)
        if taught:
            settings = SessionSettings(GRID_GP, 40, seed=seed, bundled=False)
            Session(history, settings).run([replay_job(recording, seed=seed) for recording in recordings])
        for recording in recordings:
            tuner = study_of(recording, history, seed)
            for launched in range(8, 61):
                tuner.search(launched)
                assert tuner.certificate is not None
                found = found_percent([recording], [tuner])
                yield tuner.certificate.probability, found is not None and found <= 1


def plain(axes: Axes, *, x: bool = True) -> None:
    """Write the ticks of logarithmic axes as plain numbers."""
    for axis in (axes.xaxis, axes.yaxis) if x else (axes.yaxis,):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def save(figure: Any, name: str) -> None:
    """Write a figure, the same bytes from the same data."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / name, dpi=150, metadata={"Software": None})
    plt.close(figure)


FIGURES = {"surrogate": surrogate, "convergence": convergence, "timing": timing, "certificate": certificate}


def main(names: Sequence[str]) -> None:
    """Draw figures by name, all where none is named."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with mpl.rc_context(STYLE), one_blas_thread():
        for name in names or FIGURES:
            FIGURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
