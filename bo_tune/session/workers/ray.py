"""Workers on a Ray cluster, one GPU each (extra ``ray``). Ray places them; leases settle which worker does what."""

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
"""Ray restarts a worker this many times if its process or host was lost. The worker goes on from the database."""

POLL_S = 0.5

ROOT = os.sep
"""The session's folder while it joins a cluster. Ray puts the current folder first on its workers' path, and they would
import any file in it that is named like a module."""


class RayWorker:
    """One worker, which runs in an actor.

    Args:
        storage: the database, which every host must reach.
        lease_s: see ``StudyStore``.
        seed: of replayed measurements.
        folder: the session's folder; paths on its command line are relative to it.
    """

    def __init__(self, measured: Measured, storage: str, lease_s: float, seed: int, folder: str) -> None:
        silence_optuna()
        with suppress(OSError):  # a host may lack it
            os.chdir(folder)
        self._measured, self._storage, self._lease_s, self._seed = measured, storage, lease_s, seed

    def describe(self, problems: Sequence[Problem]) -> Description:
        """Describe this worker's GPU, and what its kernels say about problems. Raises DeviceError."""
        with opened(self._measured) as (device,):
            return Description.of(device, problems)

    def work(self) -> int:
        """Search studies until none is left that fits. Returns how many could not be measured."""
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
        workers: how many; None for one on each GPU, or on each core for recordings.

    Raises:
        InputError: Ray is not installed, or the cluster cannot be reached or has no GPU.
    """

    def __init__(
        self, address: str, workers: int | None, measured: Measured, storage: str, lease_s: float, seed: int
    ) -> None:
        try:
            self._ray: Any = import_module("ray")
        except ImportError:
            raise InputError("--ray needs Ray; install bo-tune[ray]") from None
        on_gpu = measured.recordings is None
        if measured.recordings is not None:
            measured = replace(measured, device=f"replay:{measured.recordings.resolve()}")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would lower their priority
        try:
            with chdir(ROOT):
                self._ray.init(address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"--ray {address}: {one_line(error)}") from None
        if storage.startswith("sqlite") and len(self._ray.nodes()) > 1:
            self.close()
            raise InputError(
                "--storage: SQLite works only on one host; for a cluster use postgresql+psycopg://USER@HOST/DATABASE"
            )
        resources = self._ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        count = workers or (gpus if on_gpu else cores)
        if not count or (on_gpu and count > gpus):
            self.close()
            raise InputError(f"--ray {address}: the cluster has only {gpus} GPUs and {cores} cores")
        if on_gpu:
            measured = replace(measured, device=measured.backend, jobs=measured.jobs or max(1, cores // gpus - 1))
        options = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
        actor = self._ray.remote(**options, max_restarts=RESTARTS, max_task_retries=RESTARTS)(RayWorker)
        folder = str(Path.cwd())
        self._actors = [actor.remote(measured, storage, lease_s, seed, folder) for _ in range(count)]

    def descriptions(self, problems: Sequence[Problem]) -> list[Description]:
        """Return the workers' GPUs described for these problems, each type once. Raises InputError."""
        try:
            found: list[Description] = self._ray.get([actor.describe.remote(problems) for actor in self._actors])
        except self._ray.exceptions.RayError as error:
            raise InputError(f"--ray: a worker cannot use its GPU: {_last_line(error)}") from None
        return [one for i, one in enumerate(found) if one.gpu.name not in {other.gpu.name for other in found[:i]}]

    def listener(self, listen: Listener) -> Listener:
        """Return the listener as it is, since workers on other hosts report nothing."""
        return listen

    def activities(self) -> Sequence[Sequence[SessionActivity]]:
        """Return nothing, since these workers do not report what they do."""
        return ()

    @contextmanager
    def at_work(self, note: Callable[[str], None], listen: Listener) -> Iterator[threading.Event]:
        """Have the workers work for the duration of the context. The yielded event is set once they have all ended.

        Args:
            note: called when a worker fails.
            listen: never called.
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
