"""Sessions with ``--workers`` killed at random instants: a worker, the session alone, everything. Nothing is lost.

``BO_TUNE_KILLS=60 pytest tests/test_kill_workers.py -s`` kills more often, and says what became of it.
"""

import json
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from crew import Crew, Member, crew, stored
from helpers import EXPAND, EXPAND_TABLE, PATIENCE_S, SHRINK, SHRINK_TABLE, sliced, sqlite_url, write_all
from postgres import Postgres

from bo_tune.core.space import config_key
from bo_tune.session.workers import host as host_workers
from bo_tune.store.attributes import DONE_ATTR, JOB_ATTR, RESULT_ATTR
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("BO_TUNE_KILLS", "3"))
"""On each database; a third of each kind."""

STUDIES = 6 * KILLS
"""So many that none of the sessions that are killed comes to its end."""

BUDGET = 40
LEASE_S = 30.0
ENDED_WITHIN_S = 8.0
"""How long workers may outlive their session."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    each = range(1, STUDIES // 2 + 1)
    return write_all(folder, *(sliced(SHRINK, m=m) for m in each), *(sliced(EXPAND, m=m) for m in each))


class Sessions:
    """The same session again and again."""

    def __init__(self, team: Crew) -> None:
        self._team, self._chance = team, random.Random(KILLS)
        self.kills = 0

    def start(self) -> Member:
        """Start it."""
        options = ("--sampler", "random", "--budget", BUDGET, "--no-stop", "--out", self._team.folder / "out")
        return self._team.start("tune", *options, "--workers", 2)

    def let_work(self, session: Member) -> None:
        """Wait until it has recorded some more, and then a moment."""
        target = session.output().count("\nrecorded ") + self._chance.randint(1, 20)
        end = time.monotonic() + PATIENCE_S
        while session.output().count("\nrecorded ") < target:
            assert session.process.poll() is None, session.output()[-2000:]
            assert time.monotonic() < end, session.output()[-2000:]
            time.sleep(0.01)
        time.sleep(self._chance.uniform(0, 0.2))

    def kill_a_worker(self, session: Member) -> None:
        """Kill one of the two."""
        os.kill(self._chance.choice(workers_of(session)), signal.SIGKILL)
        self.kills += 1

    def kill_it_alone(self, session: Member) -> None:
        """Kill the session: its workers notice, and end in order."""
        workers = workers_of(session)
        session.process.kill()
        session.process.wait()
        self.kills += 1
        end = time.monotonic() + ENDED_WITHIN_S
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < end, "workers outlive their session"
            time.sleep(0.02)

    def kill_everything(self, session: Member) -> None:
        """Kill the session and its workers."""
        self._team.kill(session)
        self.kills += 1


def workers_of(session: Member) -> list[int]:
    """Return the process ids of the workers that are there."""
    module = host_workers.MODULE.encode()
    threads = Path(f"/proc/{session.process.pid}/task").iterdir()  # each has the children that it started
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    return [int(child) for child in children if module in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")]


def assert_nobody_is_waited_for(url: str) -> None:
    """Nobody holds a study, or one who is known to be gone: soon, for a worker may have begun in place of one that was
    killed, at the very moment when its session was."""
    end = time.monotonic() + ENDED_WITHIN_S
    with StudyStore(url, create=False) as store:
        while store.holders():
            assert time.monotonic() < end, store.holders()
            time.sleep(0.05)


def assert_whole(team: Crew) -> None:
    """Every study is complete; what is stored, what was reported and what is written agree."""
    studies, told = team.studies(), team.told()
    found, twice = stored(studies), 0
    for summary, trials in studies:
        attributes = summary.attributes
        assert attributes[DONE_ATTR] == attributes[JOB_ATTR]
        assert attributes[RESULT_ATTR]["trials"] == len(trials)
        assert [t.number for t in trials] == list(range(len(trials)))
        twice += sum(count - 1 for count in Counter(config_key(t.params) for t in trials).values())
    print(f"{len(studies)} studies, {found.total()} trials stored, {told.total()} told, "  # noqa: T201 - see above
          f"{(told - found).total()} lost, {twice} configs twice")  # fmt: skip
    assert len(studies) == STUDIES
    assert not told - found, "reported, and lost"
    assert twice == 0
    assert max(told.values()) == 1, "reported twice"
    tables = [json.loads((team.folder / "out" / name).read_text()) for name in (SHRINK_TABLE, EXPAND_TABLE)]
    best = Counter(config_key(summary.attributes[RESULT_ATTR]["config"]) for summary, _ in studies)
    assert Counter(config_key(config) for table in tables for config in leaves(table)) == best


def leaves(node: dict[str, object]) -> list[dict[str, int]]:
    """Return the configs of a table."""
    if all(isinstance(value, int) for value in node.values()):
        return [node]  # type: ignore[list-item]
    return [leaf for below in node.values() for leaf in leaves(below)]  # type: ignore[arg-type]


def run(url: str, recordings: Path, folder: Path) -> None:
    with crew(url, recordings, folder, lease_s=LEASE_S) as team:
        sessions = Sessions(team)
        while sessions.kills < KILLS:
            session = sessions.start()
            sessions.let_work(session)
            sessions.kill_a_worker(session)
            sessions.let_work(session)  # the other goes on
            sessions.kill_it_alone(session)
            assert_nobody_is_waited_for(url)
            session = sessions.start()
            sessions.let_work(session)
            sessions.kill_everything(session)
            assert_nobody_is_waited_for(url)
        last = sessions.start()
        assert last.process.wait(max(PATIENCE_S, 10 * KILLS)) == 0, last.output()[-2000:]
        assert re.search(r"^resumed |^\[\d+/\d+\] kept ", last.output(), re.MULTILINE)
        assert_nobody_is_waited_for(url)
        print(f"\n{url.partition(':')[0]}: {sessions.kills} kills,", end=" ")  # noqa: T201 - see above
        assert_whole(team)


def test_on_sqlite(recordings: Path, tmp_path: Path) -> None:
    run(sqlite_url(tmp_path / "x.db"), recordings, tmp_path)


def test_on_postgresql(postgres: Postgres, recordings: Path, tmp_path: Path) -> None:
    run(postgres.new_database(), recordings, tmp_path)
