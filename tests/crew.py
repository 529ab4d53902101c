"""Real ``bo-tune`` processes on one database, to be killed, stopped and resumed by tests."""

import os
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import forked
from helpers import PATIENCE_S, command
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, create_engine, make_url, select

from bo_tune.display.console import short_config
from bo_tune.store.attributes import DONE_ATTR
from bo_tune.store.leases.lease import LEASES, DatabaseNow
from bo_tune.store.rows.query import through
from bo_tune.store.rows.study_reader import StudyRows
from bo_tune.store.storage import StudyStore, StudySummary

Recorded = Counter[tuple[str, str]]
"""Trials by study and config, as runs print them."""

RECORDED = re.compile(r"^recorded (.+ \| .+?) ((?:[a-z]+\d+ ?)+): ", re.MULTILINE)


@dataclass
class Member:
    """One process of the crew and what it printed."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def output(self) -> str:
        """What it has printed so far, in whole lines."""
        text = self.log.read_text()
        return text[: text.rfind("\n") + 1]


@dataclass
class Crew:
    """Processes on one database and one folder of recordings."""

    url: str
    recordings: Path
    folder: Path
    lease_s: float
    members: list[Member] = field(default_factory=list)

    def start(self, *arguments: object) -> Member:
        """Start a ``bo-tune`` command on the crew's database."""
        log = self.folder / f"log{len(self.members)}"
        shared = ("--device", f"replay:{self.recordings}", "--storage", self.url, "--lease", self.lease_s, "--verbose")
        with log.open("wb") as file:
            process = forked.Popen(
                command(*arguments, *shared),
                cwd=self.folder,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "200"},
            )
        self.members.append(Member(process, log))
        return self.members[-1]

    def at_work(self) -> set[int]:
        """Return the processes that hold a study which is not done."""
        with self._connected() as connection:
            held = select(LEASES.c.study_id, LEASES.c.pid).where(LEASES.c.expires_at > DatabaseNow())
            done = StudyRows(through(connection)).attribute_of(DONE_ATTR)
            return {row.pid for row in connection.execute(held) if row.study_id not in done}

    def tokens(self) -> list[int]:
        """Return how often each study was taken."""
        with self._connected() as connection:
            return list(connection.scalars(select(LEASES.c.token)))

    def stop_one_at_work(self, *but: Member, give_work: Callable[[], None] = lambda: None) -> Member:
        """Stop a member that has a study under way, with SIGSTOP; none of these.

        On SQLite not in the middle of a transaction: that would hold up everyone until it goes on.

        Args:
            give_work: is called whenever nobody has any.
        """
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            at_work = self.at_work()
            busy = [m for m in self.members if m not in but and m.process.pid in at_work]
            if not busy:
                give_work()
            for member in busy:
                if self._stop(member) and member.process.pid in self.at_work() and not self._is_locked():
                    return member
                if member.process.poll() is None:
                    os.kill(member.process.pid, signal.SIGCONT)
            time.sleep(0.005)  # a study may take no longer than a tenth of a second
        said = [f"{m.process.pid} {m.process.poll()}: {m.output()[-200:]}" for m in self.members]
        raise AssertionError(f"nobody works; held: {self._leases()}; said: {said}")

    @staticmethod
    def _stop(member: Member) -> bool:
        """Say whether a member stands still now; one that had just ended does not."""
        while member.process.poll() is None:
            os.kill(member.process.pid, signal.SIGSTOP)
            if is_stopped(member.process.pid):
                return True
            time.sleep(0.001)
        return False

    def _leases(self) -> list[tuple[object, ...]]:
        with self._connected() as connection:
            held = select(LEASES, DatabaseNow()).where(LEASES.c.expires_at > DatabaseNow())
            return [tuple(row) for row in connection.execute(held)]

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        engine = create_engine(self.url)
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    def _is_locked(self) -> bool:
        file = make_url(self.url).database if self.url.startswith("sqlite") else None
        if file is None:
            return False
        with closing(sqlite3.connect(file, timeout=0.3, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
        return False

    def kill(self, member: Member) -> None:
        """End a member at once."""
        os.killpg(member.process.pid, signal.SIGKILL)
        member.process.wait()

    def told(self) -> Recorded:
        """Return the trials that any member said it recorded."""
        return Counter(match for member in self.members for match in RECORDED.findall(member.output()))

    def studies(self) -> list[tuple[StudySummary, list[FrozenTrial]]]:
        """Return every study with its trials."""
        store = StudyStore(self.url, create=False)
        try:
            summaries = store.summaries()
            trials = store.trials_of(summaries)
            return [(summary, trials[summary.name]) for summary in summaries]
        finally:
            store.close()


def stored(studies: list[tuple[StudySummary, list[FrozenTrial]]]) -> Recorded:
    """Return the trials of studies as members print them."""
    return Counter((str(s.name), short_config(t.params)) for s, trials in studies for t in trials)


def is_stopped(pid: int) -> bool:
    """Say whether all threads of a process stand still: on a loaded machine that takes a while after the signal."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    with suppress(OSError):  # it has just ended
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in tasks)
    return False


@contextmanager
def crew(url: str, recordings: Path, folder: Path, *, lease_s: float) -> Iterator[Crew]:
    """A crew whose processes do not outlive the test."""
    made = Crew(url, recordings, folder, lease_s)
    try:
        yield made
    finally:
        for member in made.members:
            if member.process.poll() is None:
                made.kill(member)
