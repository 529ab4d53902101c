"""The leases that this process holds: taken, renewed on time by a thread of their own, given back."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from optuna.storages import RDBStorage
from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError

from bo_tune.errors import StorageError
from bo_tune.processes.interruption import at_last
from bo_tune.store.connection.database import READS, storage_errors, through_outages
from bo_tune.store.leases.holders import Holder
from bo_tune.store.leases.lease import LEASES, Held, Leases
from bo_tune.store.rows.study_rows import name_of

BEATS_PER_LEASE = 3
"""How often a lease is renewed while it lasts."""

HOLDERS_KNOWN_FOR_S = 0.5
"""For how long a list of who works on what serves."""


class LeaseKeeper:
    """Takes leases and keeps them. Safe to use from several threads.

    Args:
        url: of the database; shown in errors without its secrets.
        lasting_s: for how long a lease holds without being renewed.
        lock: held while this process writes to the database: rows of leases are then never locked in two orders.
        lose: is told of a lease that turned out to be lost.

    Attributes:
        leases: the leases as seen by this worker.
        busy_s: seconds spent on them in the database, waiting for its turn included.
    """

    def __init__(
        self,
        storage: RDBStorage,
        url: str,
        lasting_s: float,
        lock: threading.Lock,
        lose: Callable[[Held], None],
    ) -> None:
        self._storage, self._url, self._lock, self._tell = storage, url, lock, lose
        self.leases = Leases(lasting_s)
        self.busy_s = 0.0
        self._held: set[Held] = set()
        self._holders: tuple[float, list[Holder]] = (float("-inf"), [])
        self._closing = threading.Event()
        self._heart: threading.Thread | None = None
        self._forget: Callable[[], object] = lambda: None

    def take(self, study_id: int, name: str) -> int | None:
        """Take a lease and return its token, or None where another worker holds it.

        Raises:
            StorageError: the study does not have this name (any more), or the database fails.
        """

        def attempt(_number: int) -> int | None:
            with self._storage.engine.begin() as connection:
                token = self.leases.take(connection, study_id)
                if token is not None and name_of(connection, study_id) != name:
                    raise StorageError(f"{name}: was deleted or set aside meanwhile; start again")
                return token

        with self._writing():
            try:
                token = through_outages(self._storage, attempt)
            except IntegrityError:  # another worker was faster
                return None
            if token is not None:
                self._held.add((study_id, token))
                self._keep()
        return token

    def release(self, held: Held) -> None:
        """Give a lease back, so that others need not wait until it expires. Raises StorageError."""
        self._held.discard(held)

        def attempt(_number: int) -> None:
            with self._storage.engine.begin() as connection:
                self.leases.release(connection, held)

        with self._writing():
            through_outages(self._storage, attempt)

    def lose(self, held: Held) -> None:
        """Take note that a lease turned out to be lost."""
        self._held.discard(held)
        self._tell(held)

    def holders(self, *, as_of_now: bool = False) -> dict[int, Holder]:
        """Return who works on which study, by the study's number; known for half a second. Raises StorageError.

        Args:
            as_of_now: whether to look again in any case.
        """
        now = time.monotonic()
        if as_of_now or now - self._holders[0] > HOLDERS_KNOWN_FOR_S:

            def read(_attempt: int) -> list[Holder]:
                with self._storage.engine.connect().execution_options(**{READS: True}) as connection:
                    return self.leases.holders(connection) if inspect(connection).has_table(LEASES.name) else []

            with storage_errors(self._url), self._timed():
                self._holders = now, through_outages(self._storage, read)
        return {holder.study_id: holder for holder in self._holders[1]}

    def close(self) -> None:
        """Give every lease back and stop renewing. What the database cannot be told expires by itself."""
        self._closing.set()
        if self._heart is not None:
            self._heart.join()
        with suppress(StorageError):
            for held in list(self._held):
                self.release(held)
        self._forget()

    def _abandon(self) -> None:
        """Give every lease back while other threads may be in the database."""
        with self._storage.engine.begin() as connection:
            for held in list(self._held):
                self.leases.release(connection, held)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with storage_errors(self._url), self._timed(), self._lock:
            yield

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.busy_s += time.perf_counter() - start

    def _keep(self) -> None:
        """Have the leases renewed from now on."""
        if self._heart is None:
            self._forget = at_last(self._abandon)
            self._heart = threading.Thread(target=self._renew_on_time, name="leases", daemon=True)
            self._heart.start()

    def _renew_on_time(self) -> None:
        while not self._closing.wait(self.leases.lasting_s / BEATS_PER_LEASE):
            with suppress(StorageError):  # it may go better next time; where not, nothing is written any more
                self._renew()

    def _renew(self) -> None:
        with self._writing():
            held = set(self._held)
            if not held:
                return
            with self._storage.engine.begin() as connection:
                kept = self.leases.renew(connection, held)
        for lost in held - kept:
            self.lose(lost)
