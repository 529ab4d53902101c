"""A thousand trials of which a quarter take the GPU process down, hang or fail: the session goes on and loses nothing.

The GPU process is a real one of its own that misbehaves without a GPU (``measure/faulty_gpu.py``); the compilers, the
database and the session are the real ones. ``benchmarks/faults.py`` does the same with real faults on a GPU.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, sqlite_url

from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import config_key
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu import device as cuda
from bo_tune.measure.gpu.device import Deadlines, GpuDevice
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import outcome_of

pytestmark = pytest.mark.slow

MEASURE = str(ROOT / "tests" / "measure")
STUDIES, CONFIGS = 126, 8
PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
SPACE = {
    "block_m": (16,), "block_n": (32,), "block_k": (32, 64), "num_warps": (4,), "num_stages": (2, 3), "split_k": (4, 8)
}  # fmt: skip
REASONS = {
    "illegal address": InvalidReason.LAUNCH_ERROR,
    "device assert": InvalidReason.LAUNCH_ERROR,
    "out of memory": InvalidReason.LAUNCH_ERROR,
    "infinite loop": InvalidReason.HANG,
    "exit": InvalidReason.GPU_PROCESS_DIED,
}


def test_a_thousand_trials_with_faults_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", MEASURE)
    monkeypatch.syspath_prepend(MEASURE)
    monkeypatch.setattr(cuda, "GPU_MODULE", "faulty_gpu")
    from faulty_gpu import FAULTS, fault_of  # noqa: PLC0415 - of the folder above

    device = GpuDevice(compile_workers=2, deadlines=Deadlines(first_s=0.25, measure_s=0.25))
    jobs = [job_of(replace(PROBLEM, m=16 * (index + 1)), device) for index in range(STUDIES)]
    store = StudyStore(sqlite_url(tmp_path / "studies.db"))
    settings = SessionSettings("random", None, in_flight=16, compilers=2, spaces={"lora_shrink": SPACE})
    try:
        tuned = Session(store, settings).run(jobs)
        gpu = device.activity.gpu
    finally:
        device.close()
    trials = {s.name.problem: store.load(s.name).trials() for s in store.summaries()}
    store.close()
    found: Counter[str] = Counter()
    for problem, stored in trials.items():
        assert len({config_key(trial.params) for trial in stored}) == len(stored) == CONFIGS + 1
        for trial in stored:
            fault, outcome = fault_of(problem, trial.params), outcome_of(trial)
            found[fault or "none"] += 1
            assert isinstance(outcome, Invalid) == (fault is not None)
            if isinstance(outcome, Invalid) and fault is not None:
                assert outcome.reason is REASONS[fault]
    assert found.total() == STUDIES * (CONFIGS + 1) >= 1000
    assert min(found[fault] for fault in FAULTS) > 0.03 * found.total()
    assert gpu is not None
    assert gpu.restarts == sum(found[fault] for fault in FAULTS if fault != "out of memory")
    assert all(t.result is not None for t in tuned)
