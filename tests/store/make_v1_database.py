"""Writes ``v1.db.gz``: a database of schema 1, made by the code that wrote it (commit 93117f4).

    git worktree add OLD 93117f4
    PYTHONPATH=OLD:OLD/tests python tests/store/make_v1_database.py

Two finished searches (one of them by another sampler and seed), an exhaustive study, a search that was interrupted, and
one of which nothing was tried.
"""

import gzip
import tempfile
from pathlib import Path

from helpers import EXPAND, SHRINK, sliced, sqlite_url

from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

FEW = {"block_m": (16, 64), "num_stages": (2,), "num_warps": (4,)}


def main() -> None:
    """Write the file beside this one."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "x.db"
        store = StudyStore(sqlite_url(database))
        search = Session(store, SessionSettings(budget=10, bundled=False))
        search.run([replay_job(sliced(SHRINK))])
        tpe = SessionSettings(sampler="tpe", budget=10, seed=5)
        Session(store, tpe).run([replay_job(sliced(EXPAND), seed=5)])
        Session(store, SessionSettings(sampler="grid", budget=None)).run([replay_job(sliced(EXPAND, **FEW))])
        _, begun = search.prepare(replay_job(sliced(SHRINK, m=32)))
        begun.search(4)
        search.prepare(replay_job(sliced(SHRINK, m=64)))
        store.close()
        content = database.read_bytes()
    Path(__file__).with_name("v1.db.gz").write_bytes(gzip.compress(content, mtime=0))


if __name__ == "__main__":
    main()
