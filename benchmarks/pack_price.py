"""What the price on compiling costs a session with a pack, on replayed grids: regret and compiles, price by price.

Each recording gets a pack as ``bo-tune compile`` would fill it from the recordings of other problems, on whatever GPU
(leave-one-problem-out): so many of its configs, most wanted first. A trial outside of it counts as a compile. Searched
without history, as the first studies of a session, and with that of the other recordings of its folder.
``python benchmarks/pack_price.py --seeds 10 --out benchmarks/results/pack_price`` writes .json (all runs) and .md.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
from scipy.stats import wilcoxon

from bo_tune.analysis.simulate import choices_of, regret_percent
from bo_tune.core.choices import MEMORY
from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import HaveBinaries
from bo_tune.measure.devices import job_of, replay_job
from bo_tune.measure.replay import ReplayDevice
from bo_tune.precompile.experience import recorded_history
from bo_tune.precompile.ranking import Likely
from bo_tune.processes.threads import one_blas_thread
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.tuner import Tuner

FOLDERS = (Path("studies/recordings"), Path("studies/recordings/h200"))

SHARES = {"lora_shrink": 0.25, "lora_expand": 0.84}
"""Of the configs worth compiling, those in the pack: as the pack of 3,000 binaries holds of llama-3.1-8b-96's."""

PRICES = (0.1, 0.3, 1.0)
"""Costs of a config in the pack over one outside; at 1 a compile is for nothing."""

CHECKPOINTS = (10, 20, 40)


@dataclass(frozen=True)
class Run:
    """One recording searched with one seed.

    Attributes:
        regret_percent, compiled_percent: by launched configs; trials that needed a compile, as a share of all.
    """

    recording: str
    seed: int
    price: float
    history: bool
    regret_percent: dict[str, float]
    compiled_percent: dict[str, float]


class Target:
    """A recorded GPU to compile for: every config is a binary of its own."""

    def __init__(self, recording: Recording) -> None:
        self.gpu, self._source = recording.gpu, recording.kernel_source

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """What the engine runs untuned."""
        return spec.default_config(problem)

    def kernel_source(self, kernel: str) -> str:
        """Whose kernels are recorded."""
        return self._source

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[dict[str, int]]:
        """Every recorded config ran as it was asked for."""
        return [dict(config) for config in configs]

    def key(self, problem: Problem, config: Config) -> Hashable:
        """Name the binary."""
        return config_key(config)


class Packed(ReplayDevice):
    """A recording of which some configs need no compiling."""

    def __init__(self, recording: Recording, default: Config, pack: frozenset[ConfigKey], seed: int) -> None:
        super().__init__(recording, default, seed=seed)
        self._pack = pack

    def binaries(self, problem: Problem, configs: Sequence[Config]) -> HaveBinaries:
        """Those of the pack."""
        there = np.array([config_key(config) in self._pack for config in configs])
        return lambda: there


def pack_of(recording: Recording, others: Sequence[Recording]) -> frozenset[ConfigKey]:
    """Return the configs of a recording that a pack would hold."""
    assert isinstance(recording.problem, LoraProblem)
    kernel = recording.problem.kernel
    known = [recorded_history(r) for r in others if r.problem.kernel == kernel and r.problem != recording.problem]
    histories = [history for history in known if history is not None]
    wanted = Likely(Target(recording), lambda _: histories, spaces={kernel: dict(recording.space.ranges)})
    wanted.add(recording.problem)
    count = round(SHARES[kernel] * len(wanted))
    return frozenset(config_key(one.config) for one, _ in zip(wanted, range(count), strict=False))


def run(task: tuple[Path, int, float, bool], packs: dict[str, frozenset[ConfigKey]]) -> list[Run]:
    """Search the recordings of a folder."""
    folder, seed, price, history = task
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recordings = read_recordings(folder)
    settings = SessionSettings(budget=CHECKPOINTS[-1], seed=seed, bundled=False)
    taught = StudyStore(MEMORY)
    with one_blas_thread(), patch("bo_tune.tuning.cost.cost_of_compiled", lambda _: price):
        if history:
            Session(taught, settings).run([replay_job(recording, seed=seed) for recording in recordings])
        runs = []
        for recording in recordings:
            pack = packs[recording.path.name]
            device = Packed(
                recording, kernel_spec(recording.problem.kernel).default_config(recording.problem), pack, seed
            )
            tuner = Session(StudyStore(MEMORY), settings, history=taught).opener.open(job_of(recording.problem, device))
            found = {str(at): (regret, share) for at, regret, share in searched(tuner, recording, pack)}
            regrets, compiled = ({at: both[i] for at, both in found.items()} for i in range(2))
            runs.append(Run(recording.path.name, seed, price, history, regrets, compiled))
    return runs


def searched(tuner: Tuner, recording: Recording, pack: frozenset[ConfigKey]) -> Iterator[tuple[int, float, float]]:
    """Search on to each checkpoint; yield it, the regret and the share of trials that needed a compile, in percent."""
    for at in CHECKPOINTS:
        tuner.search(at)
        regret = regret_percent([recording], choices_of(tuner))
        assert regret is not None
        yield at, regret, 100 * float(np.mean([config_key(trial.params) not in pack for trial in tuner.trials]))


def coverage(recordings: Sequence[Recording], packs: dict[str, frozenset[ConfigKey]]) -> list[str]:
    """Say what of the best configs the packs hold."""
    lines = ["| recording | configs timed | in the pack | best in the pack, % slower | within 5 %, in the pack |"]
    lines += ["|---|---|---|---|---|"]
    for recording in recordings:
        pack = packs[recording.path.name]
        times = {config_key(c): t for c in recording.configs() if (t := recording.time_us(c)) is not None}
        best, held = min(times.values()), min(time for key, time in times.items() if key in pack)
        good = [key in pack for key, time in times.items() if time <= 1.05 * best]
        cells = [len(times), len(pack), f"{100 * (held / best - 1):.2f}", f"{sum(good)} of {len(good)}"]
        lines.append(f"| {recording.path.name.removesuffix('.t4.json.gz')} | {' | '.join(map(str, cells))} |")
    return lines


def table(runs: Sequence[Run]) -> list[str]:
    """Return mean regrets and compiles by price, and how far each is from the lowest price in paired runs."""
    at = " | ".join(f"{c}: regret, compiled, p" for c in CHECKPOINTS)
    lines = [f"| history | price | {at} |", "|---|---|" + "---|" * len(CHECKPOINTS)]
    for history in (False, True):
        first = {(r.recording, r.seed): r for r in runs if (r.price, r.history) == (PRICES[0], history)}
        for price in PRICES:
            those = [r for r in runs if (r.price, r.history) == (price, history)]
            cells = []
            for c in map(str, CHECKPOINTS):
                apart = np.array([r.regret_percent[c] - first[r.recording, r.seed].regret_percent[c] for r in those])
                p = f"{wilcoxon(apart).pvalue:.2g}" if apart.any() else "–"
                compiled = np.mean([r.compiled_percent[c] for r in those])
                cells.append(f"**{np.mean([r.regret_percent[c] for r in those]):.2f}** %, {compiled:.1f} %, {p}")
            lines.append(f"| {'yes' if history else 'no'} | {price} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pack_price"))
    options = parser.parse_args()
    recordings = [recording for folder in FOLDERS for recording in read_recordings(folder)]
    with one_blas_thread():
        packs = {recording.path.name: pack_of(recording, recordings) for recording in recordings}
    tasks = [(f, s, p, h) for s in range(options.seeds) for f in FOLDERS for p in PRICES for h in (False, True)]
    with ProcessPoolExecutor(options.jobs) as pool:
        runs = [one for part in pool.map(partial(run, packs=packs), tasks) for one in part]
    command = f"python {shlex.join(sys.argv)}, {datetime.now(UTC):%Y-%m-%d}"
    document: dict[str, Any] = {"command": command, "runs": [asdict(one) for one in runs]}
    options.out.with_suffix(".json").write_text(json.dumps(document) + "\n")
    heading = f"# The price on compiling, with packs, on replayed grids\n\n- `{command}`\n\n"
    explained = (
        f"{len(recordings)} recordings, {options.seeds} seeds. The price is what a config in the pack costs\n"
        f"over one outside; at 1 compiling is for nothing. p is of a difference to price {PRICES[0]}, in paired runs\n"
        "(Wilcoxon, two-sided).\n"
    )
    lines = [heading + explained, *table(runs), "", "What the packs hold:", "", *coverage(recordings, packs)]
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
