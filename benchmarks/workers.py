"""Throughput of workers on one database, the database's share of their time, and how long listing takes.

``PYTHONPATH=tests python benchmarks/workers.py`` replays small recordings with the random sampler, which costs next to
nothing: what is left is what workers, leases and the database cost. SQLite in a temporary folder, and a PostgreSQL
server of its own. Each worker is a process; the clock runs from the moment at which all of them are up.
"""

import argparse
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

from helpers import SHRINK, sliced
from postgres import running_postgres

from bo_tune.analysis.listing import list_studies
from bo_tune.measure.devices import Job, replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.session.workers.worker import StudyWorker, fitting
from bo_tune.store.storage import StudyStore, silence_optuna

SETTINGS = SessionSettings(sampler="random", budget=6)
WORKERS = (1, 2, 4, 8)
STUDIES = (10, 100, 1000)


@dataclass(frozen=True, slots=True)
class Done:
    """What one worker did. Seconds of the database are summed over its threads, waiting included."""

    wall_s: float
    database_s: float
    studies: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    database: str
    workers: int
    studies: int
    wall_s: float
    trials: int
    database_share: float
    busiest: int
    listing_s: float

    def cells(self) -> list[str]:
        """Return the line's cells."""
        return [
            self.database,
            str(self.studies),
            str(self.workers),
            f"{self.wall_s:.1f}",
            f"{self.studies / self.wall_s:.1f}",
            f"{self.trials / self.wall_s:.0f}",
            f"{self.database_share:.0%}",
            str(self.busiest),
            f"{self.listing_s:.2f}",
        ]


def jobs(studies: int) -> list[Job]:
    """Return the jobs of as many problems, of 24 configs each."""
    small = sliced(SHRINK, num_warps=(4,), block_k=(64,))
    return [replay_job(replace(small, problem=replace(small.problem, m=m))) for m in range(1, studies + 1)]


def work(url: str, studies: int, start: Barrier, answer: "multiprocessing.Queue[Done]") -> None:
    """Be one worker."""
    silence_optuna()
    fits = fitting(jobs(studies))
    store = StudyStore(url, create=False)
    worker = StudyWorker(store, fits, SessionSettings())
    start.wait()
    begun, before = time.perf_counter(), store.database_s
    worker.run()
    wall_s, database_s = time.perf_counter() - begun, store.database_s - before
    done = worker.session.activity.studies_done if worker.session else 0
    answer.put(Done(wall_s, database_s, done))
    store.close()


def measure(database: str, url: str, workers: int, studies: int) -> Row:
    """Have workers do studies, and list them."""
    store = StudyStore(url)
    Session(store, SETTINGS).register(jobs(studies))
    store.close()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers", "postgres", "bo_tune.session.workers.worker"])
    start, answer = context.Barrier(workers + 1), context.Queue()
    processes = [context.Process(target=work, args=(url, studies, start, answer)) for _ in range(workers)]
    for process in processes:
        process.start()
    start.wait()
    found: Sequence[Done] = [answer.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    store = StudyStore(url, create=False)
    begun = time.perf_counter()
    listed = list_studies(store)
    listing_s = time.perf_counter() - begun
    store.close()
    assert sum(study.finished for study in listed) == studies
    wall_s = max(done.wall_s for done in found)
    share = sum(done.database_s for done in found) / sum(done.wall_s for done in found)
    trials = sum(study.costs.configs for study in listed)
    return Row(database, workers, studies, wall_s, trials, share, max(done.studies for done in found), listing_s)


@contextmanager
def databases(kinds: Sequence[str]) -> Iterator[dict[str, Callable[[], str]]]:
    """Have new databases of each kind at hand while it lasts."""
    with tempfile.TemporaryDirectory() as folder, running_postgres() as server:
        made = iter(range(10_000))
        every = {
            "SQLite": lambda: f"sqlite:///{folder}/{next(made)}.db",
            "PostgreSQL": server.new_database,
        }
        yield {kind: every[kind] for kind in kinds}


def main() -> None:
    """Run what the command line says and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", nargs="+", default=["SQLite", "PostgreSQL"])
    parser.add_argument("--workers", nargs="+", type=int, default=list(WORKERS))
    parser.add_argument("--studies", nargs="+", type=int, default=list(STUDIES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/workers.md"))
    options = parser.parse_args()
    silence_optuna()
    rows = []
    with databases(options.databases) as new:
        for kind in options.databases:
            for studies in options.studies:
                for workers in options.workers:
                    rows.append(measure(kind, new[kind](), workers, studies))
                    print(" | ".join(rows[-1].cells()), flush=True)
    options.out.write_text(document(rows))


def document(rows: Sequence[Row]) -> str:
    """Return the page."""
    heads = ["database", "studies", "workers", "wall s", "studies/s", "trials/s", "database", "busiest", "listing s"]
    lines = [
        "# Workers on one database",
        "",
        f"`PYTHONPATH=tests python {shlex.join(sys.argv)}`, {datetime.now(UTC):%Y-%m-%d}, on a machine with "
        f"{os.cpu_count()} cores that other work shared: more workers than cores can only show that they do not "
        "get in each other's way.",
        "",
        "Replayed recordings of 24 configs, sampler random, 6 configs launched in each study. *database*: share of"
        " the workers' wall time spent in the database, waiting for each other's writes included; nothing is "
        "compiled or launched here that would take time besides. *busiest*: studies that the worker with the most "
        "of them brought to their end; a worker that finds the last studies taken looks again every half second, "
        "which is most of the time of the rows with 10. *listing*: `list_studies`, as `bo-tune show` calls it, on "
        "the finished studies.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---|" + "---:|" * (len(heads) - 1),
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
