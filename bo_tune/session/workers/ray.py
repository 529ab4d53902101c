"""Workers on a Ray cluster, one GPU each (extra ``ray``). Ray places them; what each does the leases settle."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bo_tune.core.activity import SessionActivity
from bo_tune.core.events import Listener
from bo_tune.core.problem import Problem
from bo_tune.errors import InputError, one_line
from bo_tune.measure.described import Description
from bo_tune.session.workers.measuring import Measured, forking, opened
from bo_tune.session.workers.worker import StudyWorker, fitting_of
from bo_tune.store.storage import StudyStore, silence_optuna

RESTARTS = 3
"""How often Ray starts a worker anew whose process or host was lost; it goes on from the database."""

POLL_S = 0.5

ROOT = os.sep
"""Where a session is while it joins a cluster: Ray puts the current folder first on its workers' path, from where they
would import whatever lies in it under the name of a module."""


class RayWorker:
    """One worker: what runs in an actor.

    Args:
        storage: the database, which every host must reach.
        lease_s: see ``StudyStore``.
        seed: of replayed measurements.
        folder: where the session runs, which paths of its command line are relative to.
    """

    def __init__(self, measured: Measured, storage: str, lease_s: float, seed: int, folder: str) -> None:
        silence_optuna()
        with suppress(OSError):  # a host may lack it
            os.chdir(folder)
        self._measured, self._storage, self._lease_s, self._seed = measured, storage, lease_s, seed

    def describe(self, problems: Sequence[Problem]) -> Description:
        """Return what GPU this worker has, and what its kernels say of problems. Raises DeviceError."""
        with opened(self._measured) as (device,):
            return Description.of(device, problems)

    def work(self) -> int:
        """Search studies until none is left that fits; returns how many could not be measured."""
        store = StudyStore(self._storage, create=False, lease_s=self._lease_s)
        try:
            with (
                forking(self._measured) as forks,
                fitting_of(self._measured, self._seed, forks.host) as (_, fits, settings),
            ):
                return StudyWorker(store, fits, settings, searches=forks.searches).run()
        finally:
            store.close()


class RayCluster:
    """The workers of a session on a Ray cluster.

    Args:
        address: of the cluster; ``local`` starts one on this host.
        workers: how many; None for one on each GPU, or core for recordings.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached or has no GPU.
    """

    def __init__(
        self, address: str, workers: int | None, measured: Measured, storage: str, lease_s: float, seed: int
    ) -> None:
        try:
            self._ray: Any = import_module("ray")
        except ImportError:
            raise InputError("--ray: needs Ray; install bo-tune[ray]") from None
        on_gpu = measured.recordings is None
        if measured.recordings is not None:
            measured = replace(measured, device=f"replay:{measured.recordings.resolve()}")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray gives way to whatever else runs; what measures must not
        try:
            with chdir(ROOT):
                self._ray.init(address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"--ray {address}: {one_line(error)}") from None
        if storage.startswith("sqlite") and len(self._ray.nodes()) > 1:
            self.close()
            raise InputError(
                "--storage: SQLite serves one host; for a cluster use postgresql+psycopg://USER@HOST/DATABASE"
            )
        resources = self._ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        count = workers or (gpus if on_gpu else cores)
        if not count or (on_gpu and count > gpus):
            self.close()
            raise InputError(f"--ray {address}: the cluster has {gpus} GPUs and {cores} cores")
        if on_gpu:
            measured = replace(measured, device=measured.backend, jobs=measured.jobs or max(1, cores // gpus - 1))
        options = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        actor = self._ray.remote(**options, max_restarts=RESTARTS, max_task_retries=RESTARTS)(RayWorker)
        folder = str(Path.cwd())
        self._actors = [actor.remote(measured, storage, lease_s, seed, folder) for _ in range(count)]

    def descriptions(self, problems: Sequence[Problem]) -> list[Description]:
        """Return what GPUs the workers have, each type once, for these problems. Raises InputError."""
        try:
            found: list[Description] = self._ray.get([actor.describe.remote(problems) for actor in self._actors])
        except self._ray.exceptions.RayError as error:
            raise InputError(f"--ray: a worker cannot use its GPU: {_last_line(error)}") from None
        return [one for i, one in enumerate(found) if one.gpu.name not in {other.gpu.name for other in found[:i]}]

    def listener(self, listen: Listener) -> Listener:
        """Return the listener as it is: workers of other hosts tell nothing."""
        return listen

    def activities(self) -> Sequence[Sequence[SessionActivity]]:
        """Nothing is known of what they do."""
        return ()

    @contextmanager
    def at_work(self, note: Callable[[str], None], listen: Listener) -> Iterator[threading.Event]:
        """Have the workers work while it lasts; yields what is set once they have all ended.

        Args:
            note: is told of a worker that failed.
            listen: is told nothing.
        """
        ended, over = threading.Event(), threading.Event()
        waiting = [actor.work.remote() for actor in self._actors]

        def watch() -> None:
            left = list(waiting)
            while left and not over.is_set():
                done, left = self._ray.wait(left, timeout=POLL_S)
                for one in done:
                    try:
                        self._ray.get(one)
                    except self._ray.exceptions.RayError as error:
                        note(f"a Ray worker failed: {_last_line(error)}")
            ended.set()

        watcher = threading.Thread(target=watch, name="ray")
        watcher.start()
        try:
            yield ended
        finally:
            over.set()
            watcher.join()

    def close(self) -> None:
        """End the workers."""
        self._ray.shutdown()


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
