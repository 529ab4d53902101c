"""How ``tune`` and ``grid`` begin: with what takes longest, while the rest of what they need is loaded.

The processes that compile, measure and search import for seconds. So they are started as soon as it is known that there
is something to do, by modules that load neither optuna nor SQLAlchemy. Where the database is a new one that is known
before anything else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bo_tune.core.choices import MEMORY
from bo_tune.errors import InputError
from bo_tune.measure.backends.registry import recordings_named
from bo_tune.processes.fork_server import IMPORTED_FIRST, Imports
from bo_tune.processes.importing import missing_packages
from bo_tune.store.connection.sqlite_file import plain_file

if TYPE_CHECKING:
    from bo_tune.cli.arguments import Arguments
    from bo_tune.core.problem import Problem
    from bo_tune.measure.devices import Job
    from bo_tune.session.workers.measuring import Forks


@contextmanager
def importing_ahead(device: str, storage: str, *, anew: bool, here: bool = True) -> Iterator[Imports | None]:
    """Have a process import torch and Triton already, where it is certain by now that kernels will be compiled here.

    Args:
        anew: whether all studies begin anew.
        here: whether it is a single process of this host that compiles them.
    """
    file = plain_file(storage)
    is_new = anew or storage == MEMORY or (file is not None and not file.exists())
    if not here or not is_new or recordings_named(device) is not None or missing_packages():
        yield None
        return
    imports = Imports(IMPORTED_FIRST)
    try:
        yield imports
    finally:
        imports.close()


@dataclass(frozen=True, slots=True)
class Start:
    """What was started.

    Attributes:
        forks: forks the session's processes, where this process has any.
        done: the jobs, where all their studies are done and no GPU is needed to know it; None else.
    """

    forks: "Forks"
    done: "list[Job] | None" = None


@contextmanager
def begun(arguments: "Arguments", imports: Imports | None = None) -> Iterator[Start]:
    """Start what takes long, and end it in the end. Raises InputError.

    Args:
        imports: see ``importing_ahead``.
    """
    from bo_tune.session.workers.measuring import Forks, forking

    _check(arguments)
    measured = arguments.measured
    here = measured.recordings is None and arguments.ray is None and worker_count(arguments) == 1
    if not here:
        yield Start(Forks())
        return
    done = _recalled(arguments)
    if done is not None:
        yield Start(Forks(), done)
        return
    with forking(measured, imports) as forks:
        yield Start(forks)


def _check(arguments: "Arguments") -> None:
    """Refuse what cannot be tuned before starting anything. Raises InputError."""
    from bo_tune.cli.arguments import problems_of
    from bo_tune.core.problem import LoraProblem

    measured = arguments.measured
    if measured.recordings is not None:
        _check_replay(arguments)
        return
    measured.indices()
    if arguments.study is None:
        raise InputError("there is nothing to tune: name a study file, or a model with --model")
    problems = problems_of(arguments.study, arguments.kernels)
    _check_hits(problems, len(measured.conditions.hits))
    if arguments.choose_m and not all(isinstance(problem, LoraProblem) for problem in problems):
        raise InputError("--m auto adds keys only for the kernels of vLLM's adapters; name values of m instead")


def _check_hits(problems: "Sequence[Problem]", recorded: int) -> None:
    """Refuse recorded hits if they belong to other experts. Raises InputError."""
    from bo_tune.core.problem import LoraProblem
    from bo_tune.kernels.experts.step import KERNEL as EXPERTS
    from bo_tune.kernels.experts.step import ExpertsStep

    adapted = [problem.experts for problem in problems if isinstance(problem, LoraProblem)]
    of_base = [ExpertsStep.of(problem).experts for problem in problems if problem.kernel == EXPERTS]
    counts = sorted({one.count for one in (*adapted, *of_base) if one is not None and recorded})
    wrong = [count for count in counts if count != recorded]
    if wrong:
        raise InputError(f"--experts: expected one count for each of {wrong[0]} experts, got {recorded} numbers")


def _check_replay(arguments: "Arguments") -> None:
    """Refuse what recordings cannot do. Raises InputError."""
    measured = arguments.measured
    if arguments.choose_m:
        raise InputError("--m auto needs a GPU, because recordings hold only their own m")
    if measured.packs:
        raise InputError("--pack needs a GPU, because nothing is compiled for a recording")
    for option, given in (("--gpus", measured.gpus is not None), ("--require-idle", measured.require_idle)):
        if given:
            raise InputError(f"{option} has no effect on recordings, which need no GPU; leave it out")


def _recalled(arguments: "Arguments") -> "list[Job] | None":
    """See ``Start.done``. Raises InputError."""
    from bo_tune.cli.arguments import problems_of
    from bo_tune.session.workers.measuring import recalled

    if arguments.study is None or arguments.fresh or arguments.choose_m or arguments.record is not None:
        return None
    problems = problems_of(arguments.study, arguments.kernels)
    return recalled(arguments.measured, arguments.storage, problems, arguments.settings, arguments.layers)


def worker_count(arguments: "Arguments") -> int:
    """Return how many processes of this host tune: as the command line says, or one for each of several GPUs that have
    a pack.

    Two GPUs of one process wait for its interpreter. But each process has only its share of the compilers, and compiles
    some of what the others have compiled, too. So one has all GPUs where it is compilers that they wait for: without a
    pack, in an exhaustive search, and where there are fewer problems than GPUs; and where results of several processes
    cannot be brought together.
    """
    from bo_tune.cli.arguments import problems_of
    from bo_tune.session.workers.measuring import host_gpus

    if arguments.workers is not None:
        return arguments.workers
    measured, alone = arguments.measured, arguments.settings.exhaustive or arguments.choose_m
    if alone or measured.gpus is None or not measured.packs or arguments.storage == MEMORY:
        return 1
    gpus = len(host_gpus(measured))
    problems = problems_of(arguments.study, arguments.kernels) if arguments.study else ()
    return gpus if 1 < gpus <= len(problems) else 1
