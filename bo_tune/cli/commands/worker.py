"""``bo-tune worker``: joins the sessions of a database."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bo_tune.cli import options as o
from bo_tune.core.choices import DEFAULT_STORAGE, LEASE_S, MEMORY
from bo_tune.errors import InputError
from bo_tune.processes import exit_codes

if TYPE_CHECKING:
    from bo_tune.core.events import StudyFailed, StudyFinished


def worker_command(
    *,
    storage: o.Storage = DEFAULT_STORAGE,
    lease: o.Lease = LEASE_S,
    measuring: o.Measuring,
    dual_stream: Annotated[bool, o.DUAL_STREAM] = False,
    seed: o.Seed = None,
    json_file: o.JsonFile = None,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
) -> None:
    """Join the sessions of a database: search the studies that are free and fit this GPU, until none is left.

    Examples:
      bo-tune worker --storage sqlite:///bo_tune.db --device replay:studies/recordings
      bo-tune worker --storage postgresql+psycopg://tuner@db/studies --device cuda:0
    """
    from bo_tune.cli.output import Output
    from bo_tune.cli.resume import kept_lines
    from bo_tune.core.events import Event, StudyFailed, StudyFinished
    from bo_tune.display.reuse import unreadable_lines
    from bo_tune.display.running.progress import Progressing
    from bo_tune.measure.devices import fallback_warning
    from bo_tune.session.workers.measuring import forking
    from bo_tune.session.workers.worker import StudyWorker, fitting_of
    from bo_tune.store.storage import StudyStore, silence_optuna
    from bo_tune.tuning.tuner import InterruptedSearch

    silence_optuna()
    output, ended = Output("worker", json_file, quiet=quiet), list[StudyFinished | StudyFailed]()
    if storage == MEMORY:
        raise InputError("--storage memory is private to one process; a worker needs a database that sessions share")
    measured = measuring.measured(dual_stream=dual_stream)
    store = StudyStore(storage, create=False, lease_s=lease)
    shown = Progressing(output.console, None, verbose=verbose, urgent=output.urgent)
    with (
        forking(measured) as forks,
        fitting_of(measured, seed or 0, forks.host) as (_, fits, settings),
        shown as progress,
    ):
        output.warn(*filter(None, [fallback_warning(measured.source) if measured.recordings is None else None]))

        def listen(event: Event) -> None:
            if isinstance(event, StudyFinished | StudyFailed):
                ended.append(event)
            progress(event)

        worker = StudyWorker(store, fits, settings, listener=listen, searches=forks.searches)
        progress.watch(lambda: worker.session)
        try:
            failed = worker.run()
        except (InterruptedSearch, KeyboardInterrupt):
            worker.stop()
            progress.interrupted(kept_lines(storage))
            raise typer.Exit(exit_codes.INTERRUPTED) from None
        finally:
            store.close()
    output.lines(progress.summary())
    output.say(*unreadable_lines(store.unreadable))
    output.json({"studies": [_figures(event) for event in ended], "trials": progress.trials})
    if failed:
        raise typer.Exit(exit_codes.FAILED)


def _figures(event: "StudyFinished | StudyFailed") -> dict[str, Any]:
    """Return what the worker knows of a study that has ended; ``bo-tune show`` knows more."""
    from bo_tune.core.events import StudyFinished

    finished = event if isinstance(event, StudyFinished) else None
    return {
        "study": event.name,
        "kernel": event.problem.kernel,
        "problem": event.problem.label,
        "finished": finished is not None,
        "best_us": finished.time_us if finished else None,
        "default_us": finished.default_time_us if finished else None,
        "message": None if isinstance(event, StudyFinished) else event.message,
    }
