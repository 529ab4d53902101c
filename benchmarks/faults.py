"""A thousand trials of which a quarter take the GPU process down, or would: does the session finish and lose nothing?

``PYTHONPATH=tests/measure python benchmarks/faults.py --out benchmarks/results/faults.h100.json`` needs a GPU. The
kernel source is ``tests/measure/faulty.py``: 5 % of the configs access an illegal address, 5 % loop for ever, 5 % fail
a device assert, 5 % exit, 5 % run out of memory.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import faulty
import optuna

from bo_tune.devices import Job
from bo_tune.measure.cuda import CudaDevice, Deadlines
from bo_tune.problem import Problem
from bo_tune.session import Session, SessionSettings
from bo_tune.space import config_key
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import outcome_of

STUDIES = 25
TRIALS = 40
SPACE = {"lora_shrink": {"block_m": (16, 32), "block_n": (32,), "block_k": (64, 128), "num_stages": (2, 3)}}
PROBLEM = Problem("lora_shrink", 4, 1, 16, 4096, 16)


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faults.json"))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device = CudaDevice(source="faulty", deadlines=Deadlines(first_s=15.0, measure_s=0.5))
    jobs = [Job(replace(PROBLEM, m=16 * (index + 1)), device) for index in range(options.studies)]
    settings = SessionSettings("random", TRIALS, in_flight=len(jobs), compilers=device.compile_workers, spaces=SPACE)
    with tempfile.TemporaryDirectory() as folder:
        store = StudyStore(f"sqlite:///{folder}/studies.db")
        session = Session(store, settings)
        start = time.perf_counter()
        tuned = session.run(jobs)
        wall_s = time.perf_counter() - start
        stored = {s.name.problem: store.load(s.name).trials() for s in store.summaries()}
        store.close()
    activity = device.activity
    device.close()
    trials = [trial for found in stored.values() for trial in found]
    reasons = Counter(str(getattr(outcome_of(t), "reason", "measured")) for t in trials)
    expected = Counter(faulty.fault_of(p, t.params) or "none" for p, found in stored.items() for t in found)
    twice = sum(len(found) - len({config_key(t.params) for t in found}) for found in stored.values())
    gpu = activity.gpu
    assert gpu is not None
    document = {
        "command": "python " + shlex.join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": device.gpu.name,
        **device.provenance,
        "wall_s": round(wall_s, 1),
        "trials_stored": len(trials),
        "tried_twice": twice,
        "studies_with_a_result": sum(t.result is not None for t in tuned),
        "faults_injected": dict(expected),
        "outcomes": dict(reasons),
        "gpu_process_restarts": gpu.restarts,
        "gpu_seconds": {name: round(seconds, 1) for name, seconds in gpu.seconds.items()},
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
