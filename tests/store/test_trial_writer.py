"""Studies and trials are written as Optuna's own storage would have written them."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from helpers import H100, sqlite_url
from optuna.trial import FrozenTrial
from sqlalchemy import MetaData, create_engine, select

from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Measurement, Outcome, Resources
from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.store.attributes import GPU_ATTR, NAME_ATTR, SCHEMA_ATTR, SCHEMA_VERSION
from bo_tune.store.frozen import to_trial
from bo_tune.store.rows.study_writer import METRIC_NAMES, METRIC_NAMES_ATTR
from bo_tune.store.storage import StudyStore

NAME = StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), H100.name, "source")
CONFIG = {"block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}
LAUNCHES = Counter({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 3})
OUTCOMES: list[Outcome] = [
    Measurement((7.5, 7.25, 30.0), False, LAUNCHES, Compilation(0.5), Resources(1024, 40, 0), 1e-6),
    Measurement((70.0, 71.0, 72.0), True, LAUNCHES, Compilation(0.0, cached=True)),
    Invalid(InvalidReason.COMPILE_TIMEOUT, "took longer than 8 s", compilation=Compilation(8.0)),
]
START = datetime(2026, 3, 29, 1, 59, 59, 123456)


def trials() -> list[FrozenTrial]:
    return [to_trial(CONFIG, outcome, start=START, end=START + timedelta(seconds=2)) for outcome in OUTCOMES]


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


def test_rows_equal_those_of_optuna(tmp_path: Path) -> None:
    with StudyStore(sqlite_url(tmp_path / "ours.db")) as store:
        ours = store.open(NAME, H100)
        for trial in trials():
            ours.add(trial)
    StudyStore(sqlite_url(tmp_path / "own.db")).close()
    study = optuna.create_study(study_name=str(NAME), storage=sqlite_url(tmp_path / "own.db"))
    study._storage.set_study_system_attr(study._study_id, METRIC_NAMES_ATTR, METRIC_NAMES)
    for key, value in {NAME_ATTR: NAME.to_json(), GPU_ATTR: H100.to_json(), SCHEMA_ATTR: SCHEMA_VERSION}.items():
        study.set_user_attr(key, value)
    study.add_trials(trials())
    fast, own = _rows(tmp_path / "ours.db"), _rows(tmp_path / "own.db")
    assert len(fast["trials"]) == len(OUTCOMES)
    # Optuna writes a trial's rows in an order of its own, so the rows' own ids may differ; nothing refers to them.
    own_ids = {"trial_params", "trial_user_attributes", "trial_values", "trial_intermediate_values"}
    for name in own:
        skip = 1 if name in own_ids else 0
        assert sorted(row[skip:] for row in fast[name]) == sorted(row[skip:] for row in own[name]), name


def test_of_what_is_deleted_nothing_is_left(tmp_path: Path) -> None:
    other = StudyName(LoraProblem("lora_expand", 4, 1, 16, 4096, 16), H100.name, "source")
    with StudyStore(sqlite_url(tmp_path / "x.db")) as store:
        kept, study = store.open(other, H100), store.open(NAME, H100)
        kept.add_all(trials(), {})
        before = _rows(tmp_path / "x.db")
        study.add_all(trials(), {})
        assert store.delete(study.study_id, str(NAME)) == len(OUTCOMES)
        after = _rows(tmp_path / "x.db")
    gone = {row for name in ("studies", "study_directions", "study_user_attributes", "study_system_attributes")
            for row in set(before[name]) - set(after[name])}  # fmt: skip
    assert all(study.study_id in row for row in gone)
    assert {name: rows for name, rows in after.items() if name.startswith("trial")} == {
        name: rows for name, rows in before.items() if name.startswith("trial")
    }
