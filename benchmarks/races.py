"""What races cost and choose: many of them among configs of recorded grids, with the noise that was recorded.

``python benchmarks/races.py studies/recordings studies/recordings/h200 studies/recordings/moe`` needs no GPU. A race's
finalists are the best of 25 configs, most of them among the fastest of the grid, by ten repetitions each; in one race
of five the default is about as good. A repetition is drawn from those of its config that were on time, around the
recorded time, which is taken for the truth; what a round does to all configs alike is drawn, too. Races as they are
stand beside races that end only where the order is certain (nothing is at stake).
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from bo_tune.core.outcome import estimate_us, on_time
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.measure.device import Remeasured
from bo_tune.tuning import race as races
from bo_tune.tuning.race import Race
from bo_tune.tuning.settings import Finalists

DRIFT = 0.005
"""Standard deviation of what a round does to all alike."""

AMONG_BEST, OTHERS = 14, 10
"""Configs that a search has tried: of the fastest fiftieth, and of the fastest fifth."""


class Noisy:
    """Times configs of a recording.

    Attributes:
        repetitions: how many so far, of all configs.
    """

    def __init__(self, recording: Recording, rng: np.random.Generator) -> None:
        self._recording, self._rng = recording, rng
        self.repetitions = 0

    def draw(self, key: ConfigKey, count: int) -> list[float]:
        """Return repetitions of a config, in us."""
        entry = self._recording.entries[key]
        assert entry.time_us is not None
        clean = np.array(on_time(entry.runtimes_us))
        drawn: list[float] = self._rng.choice(clean / np.median(clean) * entry.time_us, count).tolist()
        return drawn

    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        """Time configs in turn."""
        drift = np.exp(DRIFT * self._rng.standard_normal(rounds))
        self.repetitions += rounds * len(configs)
        return Remeasured([tuple(drift * self.draw(config_key(c), rounds)) for c in configs], Counter())


@dataclass(frozen=True, slots=True)
class Raced:
    """What a race came to: what the config chosen loses to the best finalist, as a share, and repetitions."""

    loss: float
    repetitions: int


def raced(recording: Recording, seed: int, finalists: Finalists) -> Raced:
    """Run one race."""
    rng = np.random.default_rng(seed)
    times = {key: entry.time_us for key, entry in recording.entries.items() if entry.time_us is not None}
    order = sorted((key for key in times if len(recording.entries[key].runtimes_us) >= 10), key=times.__getitem__)
    best = rng.choice(max(30, len(order) // 50), AMONG_BEST, replace=False)
    others = rng.choice(len(order) // 5, OTHERS, replace=False)
    default = config_key(recording.default_config)
    if seed % 5 == 0 or default not in times:
        default = order[int(rng.integers(20 if seed % 5 == 0 else len(order)))]
    device = Noisy(recording, rng)
    measured = {order[place]: estimate_us(device.draw(order[place], 10)) for place in {*best, *others}}
    chosen = sorted(measured.keys() - {default}, key=lambda key: (measured[key], key))[: finalists.count]
    race = Race(device, recording.problem, finalists, [default, *chosen], kept=default)
    race.run()
    winner = race.leader if race.beats(race.leader, default) else default
    return Raced(times[winner] / min(times[key] for key in [default, *chosen]) - 1, device.repetitions)


def compared(recordings: Sequence[Recording], seeds: int, finalists: Finalists) -> dict[str, list[Raced]]:
    """Run the same races twice: as they are, and to the end."""

    def all_of_them() -> list[Raced]:
        return [raced(recording, seed, finalists) for recording in recordings for seed in range(seeds)]

    with patch.object(races, "AT_STAKE", 0.0):
        certain = all_of_them()
    return {"until the order is certain": certain, "as they are": all_of_them()}


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=40)
    options = parser.parse_args()
    recordings = [recording for folder in options.folders for recording in read_recordings(folder)]
    print(f"{len(recordings)} recordings, {options.seeds} races each")
    print("| races | repetitions | loss % | p95 | p99 |\n|---|---|---|---|---|")
    for name, found in compared(recordings, options.seeds, Finalists()).items():
        losses = 100 * np.array([one.loss for one in found])
        error, (p95, p99) = losses.std() / np.sqrt(len(losses)), np.quantile(losses, (0.95, 0.99))
        repetitions = np.mean([one.repetitions for one in found])
        print(f"| {name} | {repetitions:.0f} | {losses.mean():.3f} ± {error:.3f} | {p95:.2f} | {p99:.2f} |")


if __name__ == "__main__":
    main()
