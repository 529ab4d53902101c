"""A real ``bo-tune tune`` killed at random instants, again and again: nothing recorded is lost or done twice."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import forked
import optuna
import pytest
from helpers import (
    EXPAND,
    EXPAND_TABLE,
    PATIENCE_S,
    SHRINK,
    SHRINK_BIG,
    SHRINK_TABLE,
    command,
    run_command,
    sliced,
    sqlite_url,
    write_all,
)
from helpers import stored_trials as read_trials
from optuna.trial import FrozenTrial, TrialState

from bo_tune.core.space import config_key
from bo_tune.display.console import short_config
from bo_tune.store.trials import launched

pytestmark = pytest.mark.slow

KILLS_EACH = 6
"""In each of the two scenarios below."""

UNTOLD_FOR = timedelta(seconds=3)
"""A trial is stored within a second, and printed when it is; a loaded machine may take longer for either."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
PROBLEMS = 9

Recorded = Counter[tuple[str, str]]
"""Trials by study and config, as a run prints them."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    shrinks = [sliced(SHRINK_BIG), *(sliced(SHRINK, m=m) for m in (16, 32, 64, 128))]
    return write_all(folder, *shrinks, *(sliced(EXPAND, m=m) for m in (1, 16, 64, 128)))


class Tuning:
    """The same command over and over, on one database and one output folder."""

    def __init__(self, folder: Path, recordings: Path, sampler: str, budget: int) -> None:
        self.folder, self.database, self.out = folder, folder / "x.db", folder / "out"
        options = ["--storage", sqlite_url(self.database), "--out", self.out, "--sampler", sampler]
        self.command = command(
            "tune", "--device", f"replay:{recordings}", *options, "--budget", budget, "--seed", 7, "--verbose"
        )
        self._log = folder / "log"

    def start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("wb") as log:
            return forked.Popen(self.command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)

    def output(self) -> str:
        """What the run has printed so far, in whole lines."""
        text = self._log.read_text()
        return text[: text.rfind("\n") + 1]

    def wait_for(self, process: "subprocess.Popen[bytes]", pattern: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the run has printed something, or has ended."""
        end = time.monotonic() + timeout_s
        while process.poll() is None and not re.search(pattern, self.output(), re.MULTILINE):
            assert time.monotonic() < end, self.output()
            time.sleep(0.02)

    def finish(self) -> str:
        process = self.start()
        assert process.wait(PATIENCE_S) == 0, self.output()
        return self.output()

    def trials(self) -> dict[str, list[FrozenTrial]]:
        found = read_trials(self.database)
        return {name: [t for t in trials if t.state in FINISHED] for name, trials in found.items()}

    def stored(self) -> Recorded:
        return Counter((name, short_config(t.params)) for name, trials in self.trials().items() for t in trials)

    def tables(self) -> dict[str, object]:
        return {name: json.loads((self.out / name).read_text()) for name in (SHRINK_TABLE, EXPAND_TABLE)}


def printed(output: str) -> Recorded:
    return Counter(re.findall(r"^recorded (.+ \| .+?) ((?:[a-z]+\d+ ?)+): ", output, re.MULTILINE))


@pytest.fixture(scope="module", params=["random", "grid-gp"])
def reference(request: pytest.FixtureRequest, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    """An uninterrupted run."""
    budget = {"random": 50, "grid-gp": 15}[request.param]
    tuning = Tuning(tmp_path_factory.mktemp("reference"), recordings, request.param, budget)
    output = tuning.finish()
    assert printed(output) == tuning.stored()
    assert len(tuning.trials()) == PROBLEMS
    return tuning


@pytest.fixture
def tuning(reference: Tuning, recordings: Path, tmp_path: Path) -> Tuning:
    """The same search, not begun."""
    arguments = reference.command
    sampler, budget = arguments[arguments.index("--sampler") + 1], int(arguments[arguments.index("--budget") + 1])
    return Tuning(tmp_path, recordings, sampler, budget)


def assert_nothing_lost_and_nothing_twice(tuning: Tuning, told: Recorded) -> None:
    stored = tuning.stored()
    assert not told - stored
    for trials in read_trials(tuning.database).values():
        assert [t.number for t in trials] == list(range(len(trials)))
    for name, trials in tuning.trials().items():
        counts = Counter(config_key(t.params) for t in trials)
        assert max(counts.values(), default=1) == 1, name


def assert_same_end(tuning: Tuning, reference: Tuning) -> None:
    """The resumed search is the uninterrupted one, trial by trial and in what it writes."""
    for name, trials in reference.trials().items():
        resumed = tuning.trials()[name]
        assert [t.params for t in resumed] == [t.params for t in trials]
        assert [(t.state, t.value) for t in resumed] == [(t.state, t.value) for t in trials]
        assert sum(map(launched, resumed)) == sum(map(launched, trials))
    assert tuning.tables() == reference.tables()


def untold(tuning: Tuning, told: Recorded) -> list[FrozenTrial]:
    """Return the trials that are stored and that no run printed."""
    return [t for name, trials in tuning.trials().items() for t in trials if (name, short_config(t.params)) not in told]


def was_under_way(trial: FrozenTrial, killed: Sequence[datetime]) -> bool:
    """Say whether a run was killed so soon after a trial that it was stored, and had not been printed yet."""
    assert trial.datetime_complete is not None
    return any(timedelta(0) <= at - trial.datetime_complete <= UNTOLD_FOR for at in killed)


def leave_running_trials(database: Path) -> int:
    """Leave in each study a trial that seems to be under way, as other programs on the database may."""
    storage = optuna.storages.RDBStorage(sqlite_url(database))
    names = optuna.get_all_study_names(storage)
    for name in names:
        optuna.load_study(study_name=name, storage=storage).ask()
    storage.remove_session()
    storage.engine.dispose()
    return len(names)


def test_killed_at_random_instants(tuning: Tuning, reference: Tuning) -> None:
    chance = random.Random(KILLS_EACH)
    told: Recorded = Counter()
    killed: list[datetime] = []
    interrupted, stuck = 0, 0
    for kill in range(KILLS_EACH):
        process = tuning.start()
        if kill % 4:
            tuning.wait_for(process, rf"(^recorded .*\n){{{chance.randint(1, 5)}}}")
            time.sleep(chance.uniform(0, 0.01))
        else:
            time.sleep(chance.uniform(0, 0.3))  # while it starts
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        killed.append(datetime.now())
        interrupted += process.wait() == -signal.SIGKILL
        told += printed(tuning.output())
        if tuning.database.exists() and kill == KILLS_EACH // 2:
            stuck += leave_running_trials(tuning.database)
        if told:
            assert_nothing_lost_and_nothing_twice(tuning, told)
    assert interrupted == KILLS_EACH
    assert stuck > 0
    assert 0 < told.total() < reference.stored().total()
    told += printed(tuning.finish())
    assert_nothing_lost_and_nothing_twice(tuning, told)
    assert all(was_under_way(trial, killed) for trial in untold(tuning, told))
    assert_same_end(tuning, reference)
    everything = [t for trials in read_trials(tuning.database).values() for t in trials]
    assert Counter(t.state for t in everything)[TrialState.FAIL] == stuck
    assert not [t for t in everything if t.state is TrialState.RUNNING]
    kept = tuning.finish()
    assert not printed(kept)
    assert kept.count("] kept ") == PROBLEMS
    span = "(less than a minute|[1-5] minutes?)"  # how long the kills took on this machine
    assert re.search(rf"^kept {PROBLEMS} studies, measured {span}( to {span})? ago with triton 3\.6\.0", kept, re.M)


@pytest.mark.parametrize("reference", ["random"], indirect=True)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_asked_to_stop_it_says_what_is_kept_and_goes_on(tuning: Tuning, reference: Tuning, how: signal.Signals) -> None:
    process = tuning.start()
    tuning.wait_for(process, "tuned ")
    process.send_signal(how)
    assert process.wait(PATIENCE_S) == 130
    output = tuning.output()
    told = printed(output)
    said, where, again, _, write = output.splitlines()[-5:]
    assert re.fullmatch(
        rf"interrupted: [1-8] of {PROBLEMS} studies finished, {told.total()} trials recorded by this run", said
    ), said
    assert where == f"kept in {sqlite_url(tuning.database)}; to resume, in the same folder:"
    assert shlex.split(again) == ["bo-tune", *tuning.command[1:]]
    written = run_command(*shlex.split(write)[1:-1], str(tuning.out.with_name("written")), cwd=tuning.folder)
    assert written.code == 0, written.err
    assert int(re.findall(r"^(\d+) entries; \d+ studies have not ended$", written.out, re.MULTILINE)[0]) >= 1
    assert "Traceback" not in output
    assert told == tuning.stored()
    assert not (tuning.out / SHRINK_TABLE).exists()
    rest = tuning.finish()
    assert "resumed " in rest
    assert told + printed(rest) == tuning.stored()
    assert_same_end(tuning, reference)


@pytest.mark.parametrize("reference", ["random"], indirect=True)
def test_a_run_that_begins_anew_is_killed_again_and_again(tuning: Tuning, reference: Tuning) -> None:
    """Nothing of before is lost, and nothing that it has measured itself is measured twice."""
    shutil.copy(reference.database, tuning.database)
    before = {name: [t.params for t in trials] for name, trials in tuning.trials().items()}
    tuning.command.append("--fresh")
    chance = random.Random(1)
    told: Recorded = Counter()
    for kill in range(4):
        process = tuning.start()
        if kill == 0:
            time.sleep(chance.uniform(0, 0.5))  # while it starts, or sets aside
        else:
            tuning.wait_for(process, rf"(^recorded .*\n){{{chance.randint(1, 5)}}}")
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        told += printed(tuning.output())
    told += printed(tuning.finish())
    assert max(told.values()) == 1
    found = {name: [t.params for t in trials] for name, trials in tuning.trials().items()}
    aside = {name.rpartition(" | set aside ")[0]: trials for name, trials in found.items() if " | set aside " in name}
    assert aside == before
    assert {name: trials for name, trials in found.items() if " | set aside " not in name} == before
    assert tuning.tables() == reference.tables()


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    started: list[subprocess.Popen[bytes]] = []
    start = Tuning.start

    def note(self: Tuning) -> "subprocess.Popen[bytes]":
        started.append(start(self))
        return started[-1]

    monkeypatch.setattr(Tuning, "start", note)
    yield
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
