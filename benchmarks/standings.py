"""What a championship came to: tables, paired tests and curves, each figure with its interval.

A contestant's runs are its regrets by grid and seed. Means are taken over seeds, then over grids, so that no grid
counts more for having been played more often; intervals are bootstrapped over the seeds of each grid, and paired tests
compare log(time / best) on the same grid with the same seed.
"""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

RESAMPLES = 2000

LEAST = 0.02
"""Regret in percent, below which the logarithmic axis ends."""

Regrets = Mapping[tuple[str, int], float]
"""Regret, as a share, by grid and seed."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of regrets in percent, and the ends of its 95 % interval: the same where one seed alone was played."""

    percent: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high and self.percent:
            return _short(self.percent)
        return f"{_short(self.percent)} ({_short(self.low)}–{_short(self.high)})"


def mean_of(regrets: Regrets, seed: int = 0) -> Mean | None:
    """Return the mean over grids of the means over seeds; None where nothing was played or some run found nothing."""
    by_grid = _by_grid(regrets)
    if not by_grid or not all(np.isfinite(values).all() for values in by_grid.values()):
        return None
    rng = np.random.default_rng(seed)
    drawn = np.mean(
        [values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1) for values in by_grid.values()],
        axis=0,
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Mean(100 * float(np.mean([values.mean() for values in by_grid.values()])), 100 * low, 100 * high)


def _by_grid(regrets: Regrets) -> dict[str, NDArray[np.float64]]:
    grids = sorted({grid for grid, _ in regrets})
    return {name: np.array([regrets[key] for key in sorted(regrets) if key[0] == name]) for name in grids}


@dataclass(frozen=True, slots=True)
class Duel:
    """One contestant against another, in pairs of the same grid and seed.

    Attributes:
        saved: mean of log(time / best) of the other, minus that of the one, in percent of the time: positive where the
            one is ahead.
        p: Wilcoxon's signed-rank test, one-sided: that the one is not ahead.
        pairs: how many there are.
    """

    saved: float
    p: float
    pairs: int


def duel(one: Regrets, other: Regrets) -> Duel | None:
    """Compare two contestants; None without a pair of finite regrets."""
    pairs = [key for key in one.keys() & other.keys() if math.isfinite(one[key]) and math.isfinite(other[key])]
    if not pairs:
        return None
    saved = np.array([math.log1p(other[key]) - math.log1p(one[key]) for key in pairs])
    p = float(wilcoxon(saved, alternative="greater").pvalue) if saved.any() else 1.0
    return Duel(100 * float(saved.mean()), p, len(pairs))


def table(results: Mapping[str, Mapping[int, Regrets]], checkpoints: Sequence[int]) -> list[str]:
    """Return a Markdown table of the mean regrets of contestants, by launches.

    Args:
        results: by contestant and checkpoint.
    """
    lines = [f"| contestant | {' | '.join(map(str, checkpoints))} | seeds |", "|---|" + "---|" * (len(checkpoints) + 1)]
    for name, by_checkpoint in results.items():
        cells = [mean_of(by_checkpoint.get(at, {})) for at in checkpoints]
        seeds = max((len({seed for _, seed in by_checkpoint.get(at, {})}) for at in checkpoints), default=0)
        lines.append(f"| {name} | {' | '.join('–' if cell is None else str(cell) for cell in cells)} | {seeds} |")
    return lines


def duels(results: Mapping[str, Mapping[int, Regrets]], ours: str, checkpoints: Sequence[int]) -> list[str]:
    """Return a Markdown table of what one contestant saves over each other in pairs."""
    lines = [f"| {ours} against | {' | '.join(map(str, checkpoints))} |", "|---|" + "---|" * len(checkpoints)]
    for name, by_checkpoint in results.items():
        if name == ours:
            continue
        found = [duel(results[ours].get(at, {}), by_checkpoint.get(at, {})) for at in checkpoints]
        cells = ["–" if one is None else f"{one.saved:+.1f} ({one.p:.1g}, {one.pairs})" for one in found]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def plot(panels: Mapping[str, Mapping[str, Mapping[int, Regrets]]], checkpoints: Sequence[int], path: Path) -> None:
    """Draw mean regret over launches with its intervals, a panel for each group of grids."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - tables are made without it

    names = list(dict.fromkeys(name for results in panels.values() for name in results))
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 4.4), layout="constrained", squeeze=False)
    for axis, (title, results) in zip(axes[0], panels.items(), strict=True):
        for name, by_checkpoint in results.items():
            found = [(at, mean) for at in checkpoints if (mean := mean_of(by_checkpoint.get(at, {})))]
            ends = [[max(LEAST, end) for end in (mean.percent, mean.low, mean.high)] for _, mean in found]
            if not found:
                continue
            at, (middle, low, high) = [at for at, _ in found], zip(*ends, strict=True)
            colour, ours = f"C{names.index(name)}", name.startswith("grid-gp")
            style = {"linewidth": 2.5 if ours else 1.0, "linestyle": "-" if ours else "--", "markersize": 4}
            axis.plot(at, middle, marker="o", label=name, color=colour, **style)
            axis.fill_between(at, low, high, color=colour, alpha=0.1, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel="launched configs", ylabel="mean regret, %", title=title)
        axis.set_xticks(checkpoints, [str(at) for at in checkpoints])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3, which="both")
    handles = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def host() -> str:
    """Return what ran it: processor architecture and system, Python's version."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def _short(percent: float) -> str:
    """Two digits that count."""
    return f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}" if percent >= 1 else f"{percent:.2f}"


def of_group(results: Mapping[str, Mapping[int, Regrets]], grids: Iterable[str]) -> dict[str, dict[int, Regrets]]:
    """Keep the regrets of some grids, and the contestants that have any."""
    kept = set(grids)
    of_these: dict[str, dict[int, Regrets]] = {
        name: {at: {key: one for key, one in regrets.items() if key[0] in kept} for at, regrets in by.items()}
        for name, by in results.items()
    }
    return {name: by for name, by in of_these.items() if any(by.values())}
