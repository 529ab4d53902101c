"""The fast way of adding a trial writes what Optuna's own would have written."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, select

import bo_tune.store.storage
from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Measurement, Outcome, Resources
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.store.frozen import to_trial
from bo_tune.store.rows.trial_writer import is_known_schema
from bo_tune.store.storage import StudyName, StudyStore

CONFIG = {
    "block_m": 16,
    "block_n": 32,
    "block_k": 64,
    "num_warps": 4,
    "num_stages": 2,
    "split_k": 8,
    "num_ctas": 1,
}
LAUNCHES = Counter({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})
OUTCOMES: list[Outcome] = [
    Measurement((7.5, 7.25, 30.0), False, LAUNCHES, Compilation(0.5), Resources(1024, 40, 0), 1e-6),
    Measurement((70.0, 71.0, 72.0), True, LAUNCHES, Compilation(0.0, cached=True)),
    Invalid(InvalidReason.COMPILE_TIMEOUT, "took longer than 8 s", compilation=Compilation(8.0)),
]


def _fill(path: Path) -> None:
    store = StudyStore(f"sqlite:///{path}")
    study = store.open(
        StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), "GPU", "source"), GpuInfo("GPU", (9, 0), 1, 1)
    )
    start = datetime(2026, 3, 29, 1, 59, 59, 123456)
    for outcome in OUTCOMES:
        study.add(to_trial(CONFIG, outcome, start=start, end=start + timedelta(seconds=2)))
    store.close()


def _rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    engine = create_engine(f"sqlite:///{path}")
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = {
            name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for name, table in tables.tables.items()
        }
    engine.dispose()
    return found


def test_rows_equal_those_of_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_known_schema(), "another schema of Optuna: look at trial_writer before raising KNOWN_SCHEMA"
    _fill(tmp_path / "fast.db")
    monkeypatch.setattr(bo_tune.store.storage, "is_known_schema", lambda: False)
    _fill(tmp_path / "own.db")
    fast, own = _rows(tmp_path / "fast.db"), _rows(tmp_path / "own.db")
    assert len(fast["trials"]) == len(OUTCOMES)
    # Optuna writes a trial's rows in an order of its own, so the rows' own ids may differ; nothing refers to them.
    own_ids = {"trial_params", "trial_user_attributes", "trial_values", "trial_intermediate_values"}
    for name in own:
        skip = 1 if name in own_ids else 0
        assert sorted(row[skip:] for row in fast[name]) == sorted(row[skip:] for row in own[name]), name
