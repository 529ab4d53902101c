"""The leases that this process holds: taken, renewed on time by a separate thread, and given back."""

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from sqlalchemy import Connection, inspect

from bo_tune.errors import StorageError
from bo_tune.processes.interruption import at_exit
from bo_tune.store.connection.database import Database, DuplicateError
from bo_tune.store.leases.holders import Holder
from bo_tune.store.leases.lease import LEASES, Held, Leases
from bo_tune.store.rows.study_writer import WritableRows, name_of
from bo_tune.store.rows.trial_queue import Writer

BEATS_PER_LEASE = 3
"""Renewals of a lease within the time that it lasts."""

HOLDERS_KNOWN_FOR_S = 0.5
"""For how long a list of who works on what is used."""


class LeaseKeeper:
    """Takes leases, keeps them, and writes under them. Safe to use from several threads.

    Args:
        lasting_s: for how long a lease holds without being renewed.
        lose: called with a lease that turned out to be lost.

    Attributes:
        leases: the leases as seen by this worker.
    """

    def __init__(self, database: Database, lasting_s: float, lose: Callable[[Held], None]) -> None:
        self._database, self._tell = database, lose
        self.leases = Leases(lasting_s)
        self._held: set[Held] = set()
        self._holders: tuple[float, list[Holder]] = (float("-inf"), [])
        self._closing = threading.Event()
        self._heart: threading.Thread | None = None
        self._forget: Callable[[], object] = lambda: None

    def take(self, study_id: int, name: str) -> int | None:
        """Take a lease and return its token, or None if another worker holds it.

        Raises:
            StorageError: the study does not have this name (any more), or the database fails.
        """

        def take(connection: Connection) -> int | None:
            token = self.leases.take(connection, study_id)
            if token is not None and name_of(connection, study_id) != name:
                raise StorageError(f"{name}: this study was deleted or set aside meanwhile; start again")
            return token

        try:
            token = self._database.write(take)
        except DuplicateError:  # another worker was faster
            return None
        if token is not None:
            self._held.add((study_id, token))
            self._keep()
        return token

    def release(self, held: Held) -> None:
        """Give a lease back, so that others need not wait until it expires. Raises StorageError."""
        self._held.discard(held)
        self._database.write(lambda connection: self.leases.release(connection, held))

    def write(self, writers: Collection[Writer], work: Callable[[WritableRows, set[Writer]], object]) -> set[Held]:
        """Write under leases in one transaction, and return those that are lost.

        Args:
            writers: who writes. A lost lease ends only its writer's part.
            work: gets the writers that may write.
        """
        free = {writer for writer in writers if writer[1] is None}
        held = {(study_id, token) for study_id, token in writers if token is not None}
        attempts: list[int] = []

        def write(connection: Connection) -> set[Held]:
            kept, written = self.leases.fence(connection, held, attempts)
            work(WritableRows(connection), {*free, *kept})
            return held - kept - written

        # An attempt without a lease leaves no trace that would tell whether it succeeded.
        lost = self._database.write(write, again=len(held) == len(writers))
        for one in lost:
            self._lose(one)
        return lost

    def _lose(self, held: Held) -> None:
        self._held.discard(held)
        self._tell(held)

    def holders(self, *, as_of_now: bool = False) -> dict[int, Holder]:
        """Return who works on which study, by its number. Answers may be half a second old. Raises StorageError.

        Args:
            as_of_now: whether to look again in any case.
        """
        now = time.monotonic()
        if as_of_now or now - self._holders[0] > HOLDERS_KNOWN_FOR_S:

            def read(connection: Connection) -> list[Holder]:
                return self.leases.holders(connection) if inspect(connection).has_table(LEASES.name) else []

            self._holders = now, self._database.read(read)
        return {holder.study_id: holder for holder in self._holders[1]}

    def close(self) -> None:
        """Give every lease back and stop renewing. Leases that cannot be given back expire by themselves."""
        self._closing.set()
        if self._heart is not None:
            self._heart.join()
        with suppress(StorageError):
            for held in list(self._held):
                self.release(held)
        self._forget()

    def _abandon(self) -> None:
        """Give every lease back while other threads may be using the database."""
        with self._database.engine.begin() as connection:
            for held in list(self._held):
                self.leases.release(connection, held)

    def _keep(self) -> None:
        """Start renewing the leases."""
        if self._heart is None:
            self._forget = at_exit(self._abandon)
            self._heart = threading.Thread(target=self._renew_on_time, name="leases", daemon=True)
            self._heart.start()

    def _renew_on_time(self) -> None:
        def renew(connection: Connection) -> set[Held]:
            held = set(self._held)
            return held - self.leases.fence(connection, held, [])[0]

        while not self._closing.wait(self.leases.lasting_s / BEATS_PER_LEASE):
            with suppress(StorageError):  # it may work next time; if it does not, nothing is written any more
                for lost in self._database.write(renew, again=False) if self._held else ():
                    self._lose(lost)
