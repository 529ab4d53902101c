"""Tune your own Triton kernels from Python. ``docs/own-kernel.md`` is the manual."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from bo_tune.core.choices import GRID, GRID_GP, MEMORY, SAMPLERS
from bo_tune.core.conclusion import Certificate, StopRule
from bo_tune.core.conditions import Conditions, Timing
from bo_tune.core.events import Event, StudyFailed
from bo_tune.core.outcome import Invalid
from bo_tune.core.problem import Size, SizedProblem
from bo_tune.display.console import PlainConsole
from bo_tune.display.running.progress import Progressing
from bo_tune.errors import DeviceError, InputError, one_line
from bo_tune.kernels.registry import define
from bo_tune.kernels.user.definition import Definition, Sizes
from bo_tune.kernels.user.identity.home import MAIN, home_of, uniquely_named
from bo_tune.kernels.user.spec import UserSpec
from bo_tune.kernels.user.values import Value
from bo_tune.measure.backends.registry import GpuName, gpu_named, recordings_named
from bo_tune.measure.deadlines import Deadlines
from bo_tune.measure.device import Device
from bo_tune.measure.devices import Job, gpu_devices, replay_jobs
from bo_tune.processes.importing import is_importing
from bo_tune.processes.interruption import interruptible
from bo_tune.processes.streams import lasting_stderr
from bo_tune.session.exchange import record as write_recording_of
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.storage import StudyStore, silence_optuna
from bo_tune.store.trials import outcome_of
from bo_tune.tuning.tuner import InterruptedSearch

BUDGET = 40
"""Most configs to launch for each problem, by default."""

EXIT_BAD_INPUT = 2


@dataclass(frozen=True, slots=True)
class Best:
    """The result of tuning a kernel on one problem.

    Attributes:
        kernel: its name.
        problem: the sizes.
        config: the config to use. It is the default one unless another is faster beyond the noise.
        time_us: its time in us, measured at the end in turn with the default config's.
        default_time_us: the default config's time in us; None if that config cannot run.
        certificate: by the sampler's model, the probability that no other config of the space is faster by more than
            ``tolerance`` (``{"tolerance": 0.01, "probability": 0.93, …}``); None for a sampler without a model.
        configs: configs tried, including invalid ones.
        launched_configs: configs launched at least once.
        launches: launches of the kernel, for any purpose.
        compiles: binaries compiled, without those found in Triton's cache.
        compile_s: seconds of one core spent compiling.
        wall_s: seconds of work on this problem, over all runs of the program.
        gpu: name of the GPU.
        study: name of the study in the database.
        disturbed: what distorted its times, such as other processes on the GPU; empty if nothing did, None if that is
            unknown.
    """

    kernel: str
    problem: Mapping[str, Size]
    config: Mapping[str, Value]
    time_us: float
    default_time_us: float | None
    certificate: Certificate | None
    configs: int
    launched_configs: int
    launches: int
    compiles: int
    compile_s: float
    wall_s: float
    gpu: str
    study: str
    disturbed: Sequence[str] | None = None

    @property
    def speed_up(self) -> float | None:
        """The default config's time over the best one's; None if the default cannot run."""
        return self.default_time_us / self.time_us if self.default_time_us else None

    def __str__(self) -> str:
        problem, config = (" ".join(f"{k}={v}" for k, v in some.items()) for some in (self.problem, self.config))
        gain = f", {self.speed_up:.2f}x the default" if self.speed_up else ""
        return f"{self.kernel} {problem}: {config}: {self.time_us:.2f} us{gain}, {self.launched_configs} launched"


def tune(
    kernel: Definition,
    problems: Sequence[Sizes],
    *,
    storage: str = MEMORY,
    device: str | Device = "cuda",
    budget: int | None = BUDGET,
    sampler: str = GRID_GP,
    stop: bool | StopRule = True,
    seed: int = 0,
    space: Mapping[str, Sequence[Value]] | None = None,
    timing: str = Timing.COLD.value,
    jobs: int | None = None,
    compile_deadline_s: float | None = None,
    fresh: bool = False,
    progress: bool | None = None,
) -> list[Best]:
    """Find the best config of a kernel or an operation for each problem, and return the results in the order given.

    In a script, call this below ``if __name__ == "__main__":``, because the processes that compile and measure import
    the script.

    Args:
        kernel: a ``Kernel``, or an ``Operation``.
        problems: sizes by name: numbers, truth values or words. All problems have the same names.
        storage: URL of the database that keeps every trial (``sqlite:///softmax.db``). The same call goes on where it
            was interrupted, and measures nothing again that is finished. ``memory`` keeps nothing.
        device: ``cuda`` or ``cuda:N``; ``replay:DIR`` for what ``grid`` recorded; or a device of your own
            (``measure.device.Device``).
        budget: configs to launch for each problem, at most; None for all.
        sampler: what proposes configs: ``grid-gp``, ``random``, ``tpe``, ``gp``, ``coordinate`` or
            ``coordinate-restarts``. To try every config, call ``grid``.
        stop: whether a problem may end before its budget, once it is unlikely that an untried config is faster by
            more than 1 %; or the rule that decides this.
        seed: of the sampler.
        space: values that replace those of the kernel for some of its parameters.
        timing: what a launch finds in the L2 cache: ``cold`` (nothing), ``warm``, or ``graph`` (as warm, replayed in
            CUDA graphs).
        jobs: compile processes; by default one less than there are cores.
        compile_deadline_s: seconds after which a compile is given up.
        fresh: whether to measure everything again, and set the studies of these problems in the database aside.
        progress: whether to show progress on stderr; by default if stderr is a terminal.

    Raises:
        InputError: the arguments do not fit together, there is no GPU, the database cannot be used, or no config of a
            problem could be measured. A script that does not catch it prints the message in one line and exits with
            code 2.
        KeyboardInterrupt: Ctrl-C. Measurements are kept. SIGTERM and SIGHUP keep them too, and then end the script,
            unless it handles them itself.
    """
    searching = [name for name in SAMPLERS if name != GRID]
    if sampler not in searching:
        raise InputError(f"sampler: expected one of {', '.join(searching)}, got {sampler!r}")
    rule = stop if isinstance(stop, StopRule) else StopRule() if stop else None
    settings = SessionSettings(sampler, budget, seed, stop_rule=rule)
    measured = _Measured(kernel, problems, device, timing, jobs, compile_deadline_s)
    return [_best(kernel, one) for one in _run(measured, settings, space, storage, progress, fresh=fresh)]


def grid(
    kernel: Definition,
    problems: Sequence[Sizes],
    *,
    storage: str = MEMORY,
    device: str | Device = "cuda",
    budget: int | None = None,
    record: str | Path | None = None,
    space: Mapping[str, Sequence[Value]] | None = None,
    timing: str = Timing.COLD.value,
    jobs: int | None = None,
    compile_deadline_s: float | None = None,
    fresh: bool = False,
    progress: bool | None = None,
) -> list[Best]:
    """Try every config of the space, to compare ``tune`` with. Takes and raises the same as ``tune``.

    The database keeps it as a study of its own: neither search sees what the other finds.

    Args:
        budget: configs to launch for each problem, in the order of the space; None for all.
        record: folder for a recording of each problem (T4 format), which ``tune`` can replay without a GPU.
    """
    settings = SessionSettings(GRID, budget)
    measured = _Measured(kernel, problems, device, timing, jobs, compile_deadline_s)
    found = _run(measured, settings, space, storage, progress, fresh=fresh)
    if record is not None:
        for one in found:
            write_recording_of(one, Path(record))
    return [_best(kernel, one) for one in found]


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is measured, and by what."""

    kernel: Definition
    problems: Sequence[Sizes]
    device: str | Device
    timing: str
    jobs: int | None
    compile_deadline_s: float | None

    @contextmanager
    def opened(self, seed: int) -> Iterator[list[Job]]:
        """Open the device, while it lasts. Raises InputError."""
        kernel = uniquely_named(self.kernel)
        asked = _problems(kernel, self.problems)
        spec = UserSpec(kernel, frozenset(self.problems[0]))
        define(spec)
        if isinstance(self.device, Device):
            yield [Job(problem, spec, self.device) for problem in asked]
            return
        folder = recordings_named(self.device)
        if folder is not None:
            yield replay_jobs(folder, problems=asked, kernels={kernel.name}, seed=seed)
            return
        with self._gpu(gpu_named(self.device, "device")) as gpu:
            yield [Job(problem, spec, gpu) for problem in asked]

    @contextmanager
    def _gpu(self, named: GpuName) -> Iterator[Device]:
        if self.timing not in list(Timing):
            raise InputError(f"timing: expected one of {', '.join(Timing)}, got {self.timing!r}")
        with gpu_devices(
            [named.index or 0],
            backend=named.backend,
            source=home_of(self.kernel),
            conditions=Conditions(timing=Timing(self.timing)),
            compile_workers=self.jobs,
            deadlines=Deadlines.compiling_in(self.compile_deadline_s),
        ) as (gpu,):
            yield gpu


def _run(
    measured: _Measured,
    settings: SessionSettings,
    space: Mapping[str, Sequence[Value]] | None,
    storage: str,
    progress: bool | None,
    *,
    fresh: bool,
) -> list[Tuned]:
    """Search the studies of all problems."""
    _check_defined(measured.kernel)
    _end_scripts_in_one_line(measured.kernel)
    kernel = uniquely_named(measured.kernel)
    spaces = {kernel.name: _ranges(kernel, space)} if space else {}
    console, failures = PlainConsole(file=lasting_stderr()), list[str]()
    with interruptible(None), measured.opened(settings.seed) as jobs:
        silence_optuna()
        shown = Progressing(console, len(jobs)) if (console.is_terminal if progress is None else progress) else None

        def listen(event: Event) -> None:
            if isinstance(event, StudyFailed):
                failures.append(event.message)
            if shown is not None:
                shown(event)

        with StudyStore(storage) as store:  # the last: what is wrong above leaves no database behind
            compilers = getattr(jobs[0].device, "compile_workers", 0)
            settings = replace(settings, spaces=spaces).on(compilers, len(jobs))
            session = Session(store, settings, listener=listen, fresh=fresh)
            if shown is not None:
                shown.watch(lambda: session)
            try:
                with shown or nullcontext():
                    found = session.run(jobs)
            except InterruptedSearch:
                raise KeyboardInterrupt from None
            if failures:
                raise DeviceError(failures[0])
            session.settle()
            return found


def _check_defined(kernel: object) -> None:
    if not isinstance(kernel, Definition):
        raise InputError(
            f"expected a bo_tune.Kernel or a bo_tune.Operation, got {type(kernel).__name__}; bo_tune.Kernel takes "
            "a kernel under an autotuner, and bo_tune.tune_recorded tunes its recorded calls"
        )


def _problems(kernel: Definition, problems: Sequence[Sizes]) -> list[SizedProblem]:
    if is_importing():
        raise InputError(
            'call bo_tune.tune below `if __name__ == "__main__":`, because the processes that measure import this '
            "module"
        )
    if not problems:
        raise InputError(f"{kernel.name}: expected at least one problem to tune for, got none")
    names = set(problems[0])
    kernel.check_sizes(names)
    for sizes in problems:
        if set(sizes) != names:
            raise InputError(f"{kernel.name}: expected problems with the same sizes, got {problems[0]} and {sizes}")
    try:
        asked = [SizedProblem(kernel.name, tuple((name, sizes[name]) for name in problems[0])) for sizes in problems]
    except ValueError as error:
        raise InputError(f"{kernel.name}: {error}") from error
    if len(set(asked)) < len(asked):
        raise InputError(f"{kernel.name}: expected each problem only once")
    return asked


def _ranges(kernel: Definition, space: Mapping[str, Sequence[Value]]) -> dict[str, tuple[int, ...]]:
    """Return what replaces the values of some parameters, as the numbers that stand for them."""
    for name, values in space.items():
        if name not in kernel.values:
            raise InputError(
                f"{kernel.name}: space: the kernel's space has no {name!r}; expected some of {', '.join(kernel.values)}"
            )
        if not values or len(set(values)) < len(values):
            raise InputError(
                f"{kernel.name}: space: {name}: expected at least one value, and each only once, got {values!r}"
            )
    return {name: tuple(sorted(map(kernel.values[name].number, values))) for name, values in space.items()}


def _best(kernel: Definition, tuned: Tuned) -> Best:
    result, problem = tuned.result, tuned.job.problem
    assert isinstance(problem, SizedProblem)
    if result is None:
        raise InputError(f"{problem}: no config could be measured{_why(tuned)}")
    costs = result.costs
    return Best(
        kernel=problem.kernel,
        problem=dict(problem.sizes),
        config=kernel.decode(result.config),
        time_us=result.time_us,
        default_time_us=result.default_time_us,
        certificate=result.certificate,
        configs=costs.configs,
        launched_configs=costs.launched_configs,
        launches=costs.launches,
        compiles=costs.compiles,
        compile_s=costs.compile_s,
        wall_s=costs.wall_s,
        gpu=tuned.job.device.gpu.name,
        study=str(tuned.name),
        disturbed=tuned.disturbed,
    )


def _why(tuned: Tuned) -> str:
    """Say what became of the first config."""
    outcomes = map(outcome_of, tuned.trials)
    first = next((outcome for outcome in outcomes if isinstance(outcome, Invalid)), None)
    return "" if first is None else f": {first.reason}" + (f": {first.detail}" if first.detail else "")


def _end_scripts_in_one_line(kernel: Definition) -> None:
    """Have errors that the user can mend end a script in one line, unless something else shows its errors already."""
    script = getattr(sys.modules.get(MAIN), "__dict__", {})
    here = any(value is kernel for value in list(script.values()))
    if here and script.get("__file__") and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _one_line_for_input_errors


def _one_line_for_input_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, InputError):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(f"bo_tune: {one_line(error)}\n")
    raise SystemExit(EXIT_BAD_INPUT)
