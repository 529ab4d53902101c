"""Reads from the table of leases who works on which study."""

from dataclasses import dataclass

from bo_tune.processes.identity import is_gone
from bo_tune.store.rows.query import Query

TABLE = "bo_tune_leases"

SQLITE_NOW = "((julianday('now') - 2440587.5) * 86400.0)"
"""Seconds since 1970 by SQLite's clock, when the statement runs."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that works on a study.

    Attributes:
        age_s: seconds since its last sign of life.
        mine: whether it is the caller.
    """

    study_id: int
    host: str
    pid: int
    age_s: float
    mine: bool


def read_holders(query: Query, now: str, worker: str = "") -> list[Holder]:
    """Return who holds which lease now. A lease that another worker may take at once counts as held by nobody.

    Args:
        now: the current moment as an SQL expression of the database.
        worker: the caller.
    """
    columns = "study_id, host, pid, worker, process"
    statement = f"SELECT {columns}, {now} - renewed_at FROM {TABLE} WHERE expires_at > {now}"
    return [
        Holder(study_id, host, pid, max(0.0, age_s), holder == worker)
        for study_id, host, pid, holder, process, age_s in query(statement, ())
        if holder == worker or not is_gone(process)
    ]
