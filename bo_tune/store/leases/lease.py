"""Leases: which process works on which study, in a small table beside Optuna's.

The holder of a study's lease works on the study. A lease is taken by one conditional statement and renewed while its
holder lives. Another process can take it once it has expired, or once its holder has certainly died. Each time it is
taken, its *token* grows.

Whoever writes to a study first renews the lease under its token, in the same transaction (``Leases.fence``). A process
that was stopped for longer than its lease finds another token or an expired lease, and writes nothing. Until the
transaction ends, nobody else can take the lease. Times are the database's own, so the clocks of hosts need not agree.
"""

import os
import socket
import uuid
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from bo_tune.core.choices import LEASE_S
from bo_tune.processes.identity import is_gone, this_process
from bo_tune.store.leases.holders import SQLITE_NOW, TABLE, Holder, read_holders
from bo_tune.store.rows.query import through

LEASES = Table(
    TABLE,
    MetaData(),
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("token", BigInteger, nullable=False),
    Column("worker", String(32), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process", String(255), nullable=False),
    Column("renewed_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("last_write", BigInteger, nullable=False),
)

Held = tuple[int, int]
"""A study's number in the database, and the token under which its lease was taken."""


class DatabaseNow(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, when the statement runs."""

    type = Double()
    inherit_cache = True


@compiles(DatabaseNow, "sqlite")
def _sqlite_now(_element: DatabaseNow, _compiler: SQLCompiler, **_: Any) -> str:
    return SQLITE_NOW


@compiles(DatabaseNow, "postgresql")
def _postgresql_now(_element: DatabaseNow, _compiler: SQLCompiler, **_: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"  # now() is when the transaction began


class Leases:
    """The leases of one database, as one worker sees them. Every method runs in its caller's transaction.

    Args:
        lasting_s: for how long a lease holds without being renewed.

    Attributes:
        worker: names this worker; several may live in one process.
    """

    def __init__(self, lasting_s: float = LEASE_S) -> None:
        self.lasting_s = lasting_s
        self.worker = uuid.uuid4().hex
        self._writes = count(1)
        self._owner = {
            "worker": self.worker,
            "host": socket.gethostname()[:255],
            "pid": os.getpid(),
            "process": this_process()[:255],
        }

    def take(self, connection: Connection, study_id: int) -> int | None:
        """Take a lease and return its token, or None if another worker holds it.

        Raises:
            IntegrityError: another worker has just taken a lease that nobody had had before.
        """
        columns = LEASES.c
        found = connection.execute(
            select(columns.token, columns.worker, columns.process).where(columns.study_id == study_id)
        ).first()
        now = DatabaseNow()
        values = {**self._owner, "renewed_at": now, "expires_at": now + self.lasting_s, "last_write": 0}
        if found is None:
            connection.execute(insert(LEASES).values(study_id=study_id, token=1, **values))
            return 1
        token = int(found.token)
        free = [columns.expires_at <= now, *([columns.worker == found.worker] if is_gone(found.process) else [])]
        statement = update(LEASES).where(columns.study_id == study_id, columns.token == token, or_(*free))
        taken = connection.execute(statement.values(token=token + 1, **values)).rowcount == 1
        return token + 1 if taken else None

    def release(self, connection: Connection, held: Held) -> None:
        """Give a lease back, if it is still held."""
        statement = update(LEASES).where(LEASES.c.study_id == held[0], LEASES.c.token == held[1])
        connection.execute(statement.values(expires_at=0.0))

    def fence(self, connection: Connection, held: Collection[Held], attempts: list[int]) -> tuple[set[Held], set[Held]]:
        """Renew leases. Until the transaction ends, nobody else can take those that hold.

        Args:
            attempts: numbers of earlier attempts at the same write whose results are not known. The number of this
                attempt is added.

        Returns:
            The leases that hold, without those that an earlier attempt reached; and those under which an earlier
            attempt was the last to succeed.
        """
        if not held:
            return set(), set()
        before, write = tuple(attempts), next(self._writes)
        attempts.append(write)
        now, columns = DatabaseNow(), LEASES.c
        statement = update(LEASES).where(tuple_(columns.study_id, columns.token).in_(held), columns.expires_at > now)
        if before:
            statement = statement.where(columns.last_write.not_in(before))
        values = {"renewed_at": now, "expires_at": now + self.lasting_s, "last_write": write}
        if connection.execute(statement.values(values)).rowcount == len(held):
            return set(held), set()
        kept = self._last_written(connection, held, [write])
        return kept, self._last_written(connection, set(held) - kept, before) if before else set()

    def _last_written(self, connection: Connection, held: Collection[Held], writes: Sequence[int]) -> set[Held]:
        columns = LEASES.c
        statement = select(columns.study_id, columns.token).where(
            tuple_(columns.study_id, columns.token).in_(held), columns.last_write.in_(writes)
        )
        return {(row.study_id, row.token) for row in connection.execute(statement)}

    def holders(self, connection: Connection) -> list[Holder]:
        """Return who holds which lease now. A lease that another worker may take at once counts as held by nobody."""
        now = str(DatabaseNow().compile(dialect=connection.dialect))
        return read_holders(through(connection), now, self.worker)
