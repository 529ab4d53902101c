"""Eight workers on one database, killed, stopped past their lease and resumed: nothing lost, nothing twice.

Once on PostgreSQL, which crashes and comes back in the middle, and once on SQLite.
"""

import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from crew import Crew, Member, Recorded, crew, stored
from helpers import EXPAND, EXPAND_TABLE, PATIENCE_S, SHRINK, SHRINK_TABLE, sliced, sqlite_url, write_all
from postgres import Postgres

from bo_tune.core.space import config_key
from bo_tune.session.settings import SessionSettings
from bo_tune.store.attributes import DONE_ATTR, JOB_ATTR, RESULT_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import launched

pytestmark = pytest.mark.slow

STUDIES = 120
WORKERS = 8
BUDGET = 6
LEASE_S = 1.5
FOUND_WITHIN_S = 3.0
KILLS = 5
STOPS = 3


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 problems, half of each kernel, of 24 and 36 configs."""
    folder = tmp_path_factory.mktemp("recordings")
    each = range(1, STUDIES // 2 + 1)
    shrinks = [sliced(SHRINK, m=m, num_warps=(4,), block_k=(64,)) for m in each]
    return write_all(folder, *shrinks, *(sliced(EXPAND, m=m, num_warps=(4,)) for m in each))


class Gate:
    """Holds the studies that nobody has, until it lets some go."""

    def __init__(self, url: str) -> None:
        self._store = StudyStore(url)
        studies = [self._store.load(summary.name) for summary in self._store.summaries()]
        self._held = [study for study in studies if study.take()]
        self._opened_at = 0.0

    def open_a_little(self) -> None:
        """Let go of a study for each worker, unless those of a moment ago may not have been found yet."""
        if time.monotonic() - self._opened_at < FOUND_WITHIN_S:
            return
        self._opened_at = time.monotonic()
        assert len(self._held) > WORKERS, "work must be left for later"
        for _ in range(WORKERS):
            self._held.pop().release()

    def open(self) -> None:
        """Let go of all."""
        self._store.close()


def start(team: Crew) -> tuple[Member, Gate]:
    """Start a session, stop it once it has left something to do, and workers, for whom nothing is to be had yet."""
    options = ("--sampler", "random", "--budget", BUDGET, "--out", team.folder / "out")
    session = team.start("tune", *options)
    wait_until(lambda: "recorded" in session.output())
    team.stop_one_at_work()
    gate = Gate(team.url)
    workers = [team.start("worker") for _ in range(WORKERS)]
    wait_until(lambda: all("waiting " in worker.output() for worker in workers))
    return session, gate


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def has_begun(member: Member) -> bool:
    return bool(member.output()) or member.process.poll() is not None


def disturb(team: Crew, session: Member, gate: Gate, in_the_middle: Callable[[], None]) -> list[Member]:
    """Kill workers and start others, stop some past their lease, and resume them and the session.

    Returns those that were stopped.
    """
    chance = random.Random(7)
    stopped = [session]
    for _ in range(STOPS):
        stopped.append(team.stop_one_at_work(*stopped, give_work=gate.open_a_little))
    stopped_at = time.monotonic()
    gate.open()
    for kill in range(KILLS):
        time.sleep(chance.uniform(0.1, 0.4))
        alive = [m for m in team.members if m.process.poll() is None and m not in stopped]
        team.kill(chance.choice(alive))
        latest = team.start("worker")
        if kill == KILLS // 2:
            # One that could not reach the database in the first place would end.
            wait_until(partial(has_begun, latest))
            in_the_middle()
    time.sleep(max(0.0, stopped_at + 2 * LEASE_S - time.monotonic()))
    for member in stopped:
        os.kill(member.process.pid, signal.SIGCONT)
    return stopped


def assert_complete(team: Crew, told: Recorded) -> None:
    """Every study complete, no trial twice, none lost of those that were reported."""
    studies = team.studies()
    assert len(studies) == STUDIES
    wanted = SessionSettings("random", BUDGET)
    for summary, trials in studies:
        attributes = summary.attributes
        assert attributes[DONE_ATTR] == attributes[JOB_ATTR]
        assert attributes[JOB_ATTR]["budget"] == wanted.budget
        assert attributes[RESULT_ATTR]["trials"] == len(trials)
        assert sum(map(launched, trials)) == BUDGET
        assert [t.number for t in trials] == list(range(len(trials)))
        assert max(Counter(config_key(t.params) for t in trials).values()) == 1, summary.name
    found = stored(studies)
    assert not told - found, "reported, and lost"
    assert max(told.values()) == 1, "reported twice"
    unreported = found.total() - told.total()  # stored, and killed or stopped before it could be said
    assert unreported < 0.05 * found.total()
    tables = [json.loads((team.folder / "out" / name).read_text()) for name in (SHRINK_TABLE, EXPAND_TABLE)]
    assert sum(len(_leaves(table)) for table in tables) == STUDIES


def _leaves(node: object) -> list[object]:
    assert isinstance(node, dict)
    if all(isinstance(value, int) for value in node.values()):
        return [node]
    return [leaf for below in node.values() for leaf in _leaves(below)]


def run(url: str, recordings: Path, folder: Path, in_the_middle: Callable[[], None]) -> None:
    with crew(url, recordings, folder, lease_s=LEASE_S) as team:
        session, gate = start(team)
        stopped = disturb(team, session, gate, in_the_middle)
        assert session.process.wait(PATIENCE_S) == 0, session.output()
        for member in team.members:
            code = member.process.wait(PATIENCE_S)
            assert code in (0, -signal.SIGKILL), (code, member.output()[-2000:])
        lost = [member for member in stopped if re.search("^lost ", member.output(), re.MULTILINE)]
        # One that had only just taken a study finds it done, and has nothing to lose.
        assert len(lost) >= len(stopped) // 2, "who was stopped past its lease must notice"
        assert max(team.tokens()) > 2, "taken by the gate, by a worker, and by another that took over"
        assert_complete(team, team.told())


def test_on_sqlite(recordings: Path, tmp_path: Path) -> None:
    run(sqlite_url(tmp_path / "x.db"), recordings, tmp_path, lambda: None)


def test_on_postgresql_that_crashes_in_the_middle(postgres: Postgres, recordings: Path, tmp_path: Path) -> None:
    run(postgres.new_database(), recordings, tmp_path, postgres.restart)
