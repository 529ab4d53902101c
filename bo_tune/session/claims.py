"""Finds the studies of a session that this worker may work on: not done, and held by no other worker."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bo_tune.core.events import Listener, StudyElsewhere
from bo_tune.core.problem import GpuInfo
from bo_tune.core.space import Config
from bo_tune.core.study_name import StudyName
from bo_tune.store.attributes import DONE_ATTR, SPACE_ATTR
from bo_tune.store.frozen import ranges_of
from bo_tune.store.storage import StoredStudy, StudyStore
from bo_tune.tuning.candidates import Candidates

DONE_KNOWN_FOR_S = 0.1
"""For how long a list of what is done is used: one query for hundreds of studies that others have."""


class Claims:
    """The studies of a session, registered in the database with what is to be done. Safe to use from several threads.

    Studies that are searched together are claimed together.
    """

    def __init__(self, store: StudyStore, listener: Listener) -> None:
        self._store = store
        self._listener = listener
        self._opened: dict[StudyName, StoredStudy] = {}
        self._jobs: dict[StudyName, Mapping[str, Any]] = {}
        self._told: set[StudyName] = set()
        self._before: set[StudyName] = set()
        self._done: Mapping[int, Any] = {}
        self._done_at = float("-inf")
        self._lock = threading.Lock()

    def register(
        self,
        gpus: Mapping[StudyName, GpuInfo],
        jobs: Mapping[StudyName, Mapping[str, Any]],
        *,
        write: bool = True,
        fresh: bool = False,
    ) -> None:
        """Put studies into the database, with how they are to be searched, for workers that join. Raises StorageError.

        Args:
            write: whether to write how they are to be searched. False if another session has written it.
            fresh: whether to begin them anew, see ``StudyStore.open_all``.
        """
        new = jobs.keys() - self._jobs.keys()
        self._opened |= self._store.open_all(gpus, jobs if write else None, fresh=fresh)
        self._jobs |= jobs
        done = self._store.attribute_of(DONE_ATTR, [self._opened[name].study_id for name in new])
        self._before |= {name for name in new if done.get(self._opened[name].study_id) == jobs[name]}

    def were_done(self, name: StudyName) -> bool:
        """Say whether a study was finished, as the session wants it, before the session began."""
        return name in self._before

    def settle(self) -> None:
        """Note that the session has ended. Raises StorageError."""
        self._store.settle(self._opened)

    def stored(self, name: StudyName, gpu: GpuInfo) -> StoredStudy:
        """Return a study. It is opened now if it is not the session's. Raises StorageError."""
        found = self._opened.get(name)
        return self._store.open(name, gpu) if found is None else found

    def are_done(self, names: Sequence[StudyName], *, as_of_now: bool = False) -> bool:
        """Say whether studies are finished as the session wants them. Raises StorageError.

        Args:
            as_of_now: whether to ask the database in any case. Otherwise the answer may miss a study just finished.
        """
        with self._lock:
            now = time.monotonic()
            if as_of_now or now - self._done_at > DONE_KNOWN_FOR_S:
                ids = [stored.study_id for stored in self._opened.values()]
                self._done, self._done_at = self._store.attribute_of(DONE_ATTR, ids), now
            return all(self._done.get(self._opened[name].study_id) == self._jobs[name] for name in names)

    def take(self, names: Sequence[StudyName], *, done_too: bool = False) -> bool:
        """Take the leases of studies, all or none. Returns whether they were taken.

        Args:
            done_too: whether to take them even if they are done by now.

        Raises:
            StorageError: the database fails.
        """
        for name in names:
            holder = self._store.holders().get(self._opened[name].study_id)
            if holder is not None and not holder.mine:
                if name not in self._told:
                    self._told.add(name)
                    self._listener(StudyElsewhere(str(name), name.problem, holder.host, holder.pid))
                return False
        for count, name in enumerate(names):
            if not self._opened[name].take():
                self.release(names[:count])
                return False
        if not done_too and all(self._opened[name].attribute(DONE_ATTR) == self._jobs[name] for name in names):
            self.release(names)  # another worker has just finished them
            return False
        return True

    def release(self, names: Sequence[StudyName]) -> None:
        """Give leases back. Raises StorageError."""
        for name in names:
            self._opened[name].release()

    def finish(self, name: StudyName, attributes: Mapping[str, Any]) -> None:
        """Note that a study is done. Raises LeaseLostError, StorageError."""
        self._opened[name].set_attributes({**attributes, DONE_ATTR: self._jobs[name]})


def note_space(stored: StoredStudy, found: Candidates, default: Config) -> None:
    """Store with the study what was left out before any trial, and the default config, for later readers."""
    sizes = {"size": len(found.space), "candidates": len(found)}
    ranges = {name: list(ends) for name, ends in ranges_of(found.space.ranges, default).items()}
    note = {**sizes, "excluded": dict(found.excluded), "default": dict(default), "ranges": ranges}
    if stored.attribute(SPACE_ATTR) != note:
        stored.set_attribute(SPACE_ATTR, note)
