"""A thousand trials of which a quarter take the GPU process down, or would: does the session finish and lose nothing?

``PYTHONPATH=tests/measure python benchmarks/faults.py --out benchmarks/results/faults.h100.json`` needs a GPU and two
or three minutes. The kernel source is ``tests/measure/faulty.py``: 5 % of the configs access an illegal address, 5 %
loop for ever, 5 % fail a device assert, 5 % exit, 5 % run out of memory. After ``--seconds`` it ends with what it has.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faulty
import optuna
from optuna.trial import FrozenTrial

from bo_tune.core.outcome import Invalid
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import config_key
from bo_tune.files import write_atomically
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu.device import STANDBYS, Deadlines, GpuDevice
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import outcome_of
from bo_tune.tuning.tuner import InterruptedSearch

STUDIES = 25
TRIALS = 40
SECONDS = 240.0
PROGRESS_S = 10.0
STOP_S = 15.0
"""For the trials under way when the time is up."""

SPACE = {"lora_shrink": {"block_m": (16, 32), "block_n": (32,), "block_k": (64, 128), "num_stages": (2, 3)}}
PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
DEADLINES = Deadlines(first_s=15.0, measure_s=1.0)
REASONS = {
    None: {"measured"},
    "illegal address": {"launch error"},
    "infinite loop": {"launch timeout"},
    "device assert": {"launch error", "gpu process died"},
    "exit": {"gpu process died"},
    "out of memory": {"launch error"},
}
"""What each fault, and none, should come to."""

Trials = Mapping[LoraProblem, Sequence[FrozenTrial]]


class Run:
    """One session over a GPU that fails."""

    def __init__(self, device: GpuDevice, store: StudyStore, studies: int, sampler: str) -> None:
        self._device, self._store = device, store
        self.jobs = [job_of(replace(PROBLEM, m=16 * (index + 1)), device) for index in range(studies)]
        settings = SessionSettings(sampler, TRIALS, in_flight=studies, compilers=device.compile_workers, spaces=SPACE)
        self.session = Session(store, settings)
        self._begun = time.perf_counter()
        self.tuned: list[Tuned] = []
        self.finished = False

    def go(self) -> None:
        """Search until all is done, or it is stopped."""
        try:
            self.tuned = self.session.run(self.jobs)
            self.finished = True
        except InterruptedSearch:
            return

    def line(self) -> str:
        """Where it stands."""
        now, gpu = self.session.activity, self._device.activity.gpu
        assert gpu is not None
        seconds = ", ".join(f"{name} {s:.1f}" for name, s in gpu.seconds.items())
        return (
            f"{time.perf_counter() - self._begun:5.0f} s: {now.trials} trials, {now.studies_done} of {now.studies} "
            f"studies, {gpu.restarts} restarts, {gpu.standby_starts} standbys in {gpu.standby_s:.0f} s; GPU: {seconds}"
        )

    def document(self) -> dict[str, Any]:
        """What came of it so far."""
        stored = {s.name.problem: self._store.load(s.name).trials() for s in self._store.summaries()}
        gpu = self._device.activity.gpu
        assert gpu is not None
        return {
            "command": "python " + shlex.join(sys.argv),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "gpu": self._device.gpu.name,
            **self._device.provenance,
            "finished": self.finished,
            "wall_s": round(time.perf_counter() - self._begun, 1),
            **counts(stored),
            "studies_with_a_result": sum(t.result is not None for t in self.tuned),
            "gpu_process_restarts": gpu.restarts,
            "standby_starts": gpu.standby_starts,
            "standby_start_s_each": round(gpu.standby_s / max(1, gpu.standby_starts), 2),
            "gpu_seconds": {name: round(seconds, 1) for name, seconds in gpu.seconds.items()},
        }


def counts(stored: Trials) -> dict[str, Any]:
    """Count trials by the fault that was injected and by what came of them."""
    came: dict[str, Counter[str]] = {}
    wrong = 0
    for problem, trials in stored.items():
        for trial in trials:
            fault, outcome = faulty.fault_of(problem, trial.params), outcome_of(trial)
            reason = str(outcome.reason) if isinstance(outcome, Invalid) else "measured"
            came.setdefault(fault or "none", Counter())[reason] += 1
            wrong += reason not in REASONS[fault]
    return {
        "trials_stored": sum(map(len, stored.values())),
        "tried_twice": sum(len(found) - len({config_key(t.params) for t in found}) for found in stored.values()),
        "faults_injected": {fault: found.total() for fault, found in came.items()},
        "outcomes": {fault: dict(found) for fault, found in came.items()},
        "outcomes_of_another_kind": wrong,
    }


@contextmanager
def limited(run: Run, seconds: float, out: Path) -> Iterator[None]:
    """Print a line now and then; at the deadline stop the run, and where it does not stop, end with what it has."""
    over = threading.Event()

    def watch() -> None:
        end = time.perf_counter() + seconds
        while not over.wait(max(0.0, min(PROGRESS_S, end - time.perf_counter()))):
            print(run.line(), flush=True)
            if time.perf_counter() >= end:
                run.session.stop()
                if not over.wait(STOP_S):
                    write(run.document(), out)
                    os._exit(1)
                return

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def write(document: Mapping[str, Any], out: Path) -> None:
    """Write and print what came of it."""
    text = json.dumps(document, indent=1) + "\n"
    write_atomically(out, text.encode())
    print(text, flush=True)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--standbys", type=int, default=STANDBYS, help="GPU processes that stand ready at most")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="end with what there is")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faults.json"))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    begun = time.perf_counter()
    device = GpuDevice(source="faulty", deadlines=DEADLINES, standbys=options.standbys)
    with tempfile.TemporaryDirectory() as folder:
        store = StudyStore(f"sqlite:///{folder}/studies.db")
        run = Run(device, store, options.studies, options.sampler)
        with limited(run, options.seconds - (time.perf_counter() - begun), options.out):
            run.go()
        print(run.line(), flush=True)
        write(run.document(), options.out)
        store.close()
    device.close()


if __name__ == "__main__":
    main()
