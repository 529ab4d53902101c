"""Writing under leases: in one transaction, or not at all."""

from collections.abc import Callable, Collection

from optuna.storages import RDBStorage
from sqlalchemy import Connection

from bo_tune.store.leases.lease import Held, Leases
from bo_tune.store.rows.access import FastRows, PlainRows, Rows
from bo_tune.store.rows.trial_queue import Writer


class FencedWrite:
    """A transaction that writes under leases, and can be attempted again where it was cut off.

    Args:
        writers: who writes. A lost lease among them ends that writer's part alone.
        work: writes what those still may write that it is told of.
        fast: whether all rows are written in the transaction that looks at the leases.
    """

    def __init__(
        self,
        storage: RDBStorage,
        leases: Leases,
        writers: Collection[Writer],
        work: Callable[[Rows, set[Writer]], object],
        *,
        fast: bool,
    ) -> None:
        self._storage, self._leases, self._work, self._fast = storage, leases, work, fast
        self._free: set[Writer] = {writer for writer in writers if writer[1] is None}
        self._held = {(study_id, token) for study_id, token in writers if token is not None}
        self._attempts: list[int] = []

    def __call__(self, _attempt: int) -> set[Held]:
        """Write, and return those whose lease is lost."""
        with self._storage.engine.begin() as connection:
            kept, written = self._fence(connection)
            if self._fast:
                self._work(FastRows(connection), {*self._free, *kept})
        if not self._fast:  # Optuna writes in transactions of its own: a lease may be lost in between
            self._work(PlainRows(self._storage), {*self._free, *kept})
        return self._held - kept - written

    def _fence(self, connection: Connection) -> tuple[set[Held], set[Held]]:
        """Return the leases that hold, and those under which an earlier attempt succeeded after all."""
        if not self._held:
            return set(), set()
        before = tuple(self._attempts)
        self._attempts.append(self._leases.next_write())
        kept = self._leases.fence(connection, self._held, self._attempts[-1], before)
        return kept, self._leases.written(connection, self._held - kept, before)
