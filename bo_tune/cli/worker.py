"""``bo-tune worker``: joins the sessions of a database."""

import typer

from bo_tune.cli import options as o
from bo_tune.cli.measuring import Measured, fitting_of
from bo_tune.conditions import Routing, Timing, Tokens
from bo_tune.errors import InputError
from bo_tune.report.console import terminal
from bo_tune.report.progress import Progressing
from bo_tune.store.leases import LEASE_S
from bo_tune.store.storage import MEMORY, StudyStore
from bo_tune.tuner import InterruptedSearch
from bo_tune.worker import StudyWorker


def worker_command(
    storage: o.Storage = o.DEFAULT_STORAGE,
    device: o.DeviceName = o.DEFAULT_DEVICE,
    gpus: o.Gpus = None,
    kernels: o.KernelSource = "auto",
    timing: o.TimingKind = Timing.COLD,
    tokens: o.TokenSpread = Tokens.UNIFORM,
    active_loras: o.ActiveLoras = None,
    experts: o.ExpertSpread = Routing.UNIFORM.value,
    seed: o.Seed = None,
    jobs: o.Jobs = None,
    pack: o.Packs = None,
    lease: o.Lease = LEASE_S,
    verbose: o.Verbose = False,
) -> None:
    """Join the sessions of a database: search the studies that are free and fit this GPU, until none is left.

    Example: bo-tune worker --storage postgresql+psycopg://tuner@db/studies --device cuda:0
    """
    if storage == MEMORY:
        raise InputError("--storage: a worker needs a database that sessions share")
    conditions = o.conditions(timing, tokens, active_loras, experts)
    measured = Measured(device, kernels, conditions, jobs, tuple(pack or ()), gpus)
    store = StudyStore(storage, create=False, lease_s=lease)
    console = terminal()
    with fitting_of(measured, seed or 0) as (fits, settings), Progressing(console, None, verbose=verbose) as progress:
        worker = StudyWorker(store, fits, settings, listener=progress)
        progress.watch(lambda: worker.session.activity if worker.session else None)
        try:
            failed = worker.run()
        except (InterruptedSearch, KeyboardInterrupt):
            worker.stop()
            progress.interrupted()
            raise typer.Exit(130) from None
        finally:
            store.close()
    console.print(progress.summary(), markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
