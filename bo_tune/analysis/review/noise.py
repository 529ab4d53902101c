"""The spread of one config's repetitions, and the share of late launches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from statistics import median, quantiles

from optuna.trial import FrozenTrial

from bo_tune.core.outcome import LaunchPurpose, on_time
from bo_tune.store.trials import COST

FEWEST = 3
"""Repetitions below which we report no spread."""

FEWEST_CONFIGS = 10
"""Configs below which we report nothing about a range of times."""


def spread(runtimes_us: Sequence[float]) -> float | None:
    """Return the distance of the 10th from the 90th percentile over the median, of repetitions launched in time.

    None for fewer than three of them.
    """
    kept = on_time(runtimes_us) if runtimes_us else []
    if len(kept) < FEWEST:
        return None
    tenths = quantiles(kept, n=10, method="inclusive")
    return (tenths[-1] - tenths[0]) / median(kept)


def late_share(trials: Iterable[FrozenTrial]) -> float | None:
    """Return the share of timed launches that were queued too late and repeated; None if there are none."""
    timed = late = 0
    for trial in trials:
        launches = trial.user_attrs.get(COST, {}).get("launches", {})
        timed += launches.get(LaunchPurpose.TIMING.value, 0)
        late += launches.get(LaunchPurpose.LATE.value, 0)
    return late / (timed + late) if timed + late else None


@dataclass(frozen=True, slots=True)
class NoiseBand:
    """The spreads of configs that take about equally long.

    Attributes:
        low_us, high_us: range of times, in us.
        configs: how many.
        median, p90: of their spreads.
    """

    low_us: float
    high_us: float
    configs: int
    median: float
    p90: float


def noise_bands(measured: Iterable[tuple[float, float]]) -> list[NoiseBand]:
    """Sort (time in us, spread) of configs into octaves of time, and return the spreads of each that has enough."""
    octaves: dict[int, list[float]] = {}
    for time_us, value in measured:
        octaves.setdefault(int(log2(time_us) // 1), []).append(value)
    bands = []
    for octave, values in sorted(octaves.items()):
        if len(values) >= FEWEST_CONFIGS:
            p90 = quantiles(values, n=10, method="inclusive")[-1]
            bands.append(NoiseBand(2.0**octave, 2.0 ** (octave + 1), len(values), median(values), p90))
    return bands
