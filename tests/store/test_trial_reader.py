"""Reading many studies at once gives what Optuna gives, study by study."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from helpers import H100, sqlite_url
from optuna.trial import FrozenTrial, TrialState
from postgres import Postgres

from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Measurement, Outcome, Resources
from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.store.frozen import to_trial
from bo_tune.store.storage import StudyStore

OUTCOMES: list[Outcome] = [
    Measurement((7.5, 7.25), False, Counter({LaunchPurpose.CHECK: 1}), Compilation(0.5), Resources(1024, 40, 0), 1e-6),
    Measurement((70.0, 71.0), True, Counter({LaunchPurpose.TIMING: 2}), Compilation(0.0, cached=True)),
    Invalid(InvalidReason.COMPILE_TIMEOUT, "took longer than 8 s", compilation=Compilation(8.0)),
]
CONFIG = {"block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
START = datetime(2026, 3, 29, 1, 59, 59, 123456)


def fields(trial: FrozenTrial) -> dict[str, object]:
    return {name: value for name, value in vars(trial).items() if name != "_system_attrs"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_trials_equal_those_of_optuna(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server: Postgres | None = request.getfixturevalue("postgres") if kind == "postgresql" else None
    url = server.new_database() if server else sqlite_url(tmp_path / "x.db")
    store = StudyStore(url)
    names = [StudyName(LoraProblem("lora_shrink", 4, 1, m, 4096, 16), H100.name, "x") for m in (1, 2, 3)]
    for count, name in enumerate(names):
        study = store.open(name, H100)
        for n in range(3 * count):
            config = {**CONFIG, "block_m": 2**n, "block_n": 4096}
            end = START + timedelta(seconds=n)
            study.add_soon(to_trial(config, OUTCOMES[n % 3], start=START, end=end), lambda: None)
        study.flush()
    found = store.trials_of(store.summaries())
    storage = optuna.storages.RDBStorage(url)
    for count, name in enumerate(names):
        own = optuna.load_study(study_name=str(name), storage=storage).get_trials(states=FINISHED)
        assert len(own) == 3 * count
        assert [fields(t) for t in found[name]] == [fields(t) for t in own]
        assert [fields(t) for t in store.load(name).trials()] == [fields(t) for t in own]
    storage.remove_session()
    storage.engine.dispose()
    store.close()
