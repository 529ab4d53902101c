"""What the command lines of ``tune``, ``grid`` and ``compile`` mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bo_tune.cli.options import integers
from bo_tune.cli.served import Served
from bo_tune.core.choices import GRID, LEASE_S, RaceChoice
from bo_tune.core.problem import Problem
from bo_tune.core.surroundings import Linear
from bo_tune.engines.models.engine import M_LADDER
from bo_tune.errors import InputError
from bo_tune.formats.study_file import Stop, StudyFile, load_study_file
from bo_tune.formats.study_schema import Budget
from bo_tune.kernels.registry import kernel_spec
from bo_tune.search import StopRule
from bo_tune.session.session import SessionSettings
from bo_tune.session.settings import MOST_ACTIVE
from bo_tune.session.workers.measuring import Measured

DEFAULT_BUDGET = 40


@dataclass(frozen=True, slots=True)
class Written:
    """Where results go: the folder of the JSON files, and that of recordings."""

    tables: Path
    recordings: Path | None = None


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the command line of ``tune`` or ``grid`` said."""

    study: StudyFile | None
    kernels: Sequence[str]
    measured: Measured
    storage: str
    written: Written
    settings: SessionSettings
    verbose: bool
    choose_m: bool = False
    fresh: bool = False
    lease_s: float = LEASE_S
    ray: str | None = None
    workers: int | None = None
    race: RaceChoice = RaceChoice.IN_PLACE

    @property
    def linears(self) -> Mapping[Problem, Linear]:
        """The layers in which finalists are to race, by problem."""
        return self.study.linears() if self.study is not None and self.race is RaceChoice.IN_PLACE else {}


def problems_of(study: StudyFile, kernels: Sequence[str]) -> list[Problem]:
    """Return a study's problems of some kernels, of all where none is named. Raises InputError where there are none."""
    for name in kernels:
        kernel_spec(name)
    problems = [p for p in study.problems() if not kernels or p.kernel in kernels]
    if not problems:
        what = f"--kernel: the study has no problem of {', '.join(kernels)}"
        raise InputError(what if kernels else f"{study.name}: nothing to tune: an engine looks nothing up")
    return problems


def study_of(study: Path | None, served: Served, m: list[str] | None) -> StudyFile | None:
    """Return the study of the file, or of the model, or None where neither is named."""
    if study is not None:
        given = served.given()
        if given:
            raise InputError(f"{given[0]}: give a study file or a model, not both")
        loaded = load_study_file(study)
        return _with_tokens(loaded, integers(m, "--m")) if m else loaded
    if served.model is None:
        given = [*served.given(), *(["--m"] if m else [])]
        if given:
            raise InputError(f"{given[0]}: needs a model; name one with --model")
        return None
    return StudyFile.from_model(served.study(integers(m, "--m") or M_LADDER))


def _with_tokens(study: StudyFile, ms: list[int]) -> StudyFile:
    if study.model is None:
        raise InputError("--m: this study file names its problems one by one, with their m")
    return replace(study, model=replace(study.model, ms=tuple(ms)))


def arguments_of(
    study: StudyFile | None,
    sampler: str,
    kernels: list[str] | None,
    measured: Measured,
    storage: str,
    written: Written,
    budget: int | None,
    seed: int | None,
    stop: bool | None,
    verbose: bool,
) -> Arguments:
    """Put together what the command line said and what the study file says, which it overrides. Raises InputError."""
    for name in kernels or ():
        kernel_spec(name)
    limits = study.budget if study else Budget()
    chosen = budget or (None if sampler == GRID else limits.launched_configs or DEFAULT_BUDGET)
    settings = SessionSettings(
        sampler=sampler,
        budget=chosen,
        seed=seed if seed is not None else study.seed if study else 0,
        stop_rule=_stop_rule(study, stop),
        spaces=study.space if study else {},
    )
    if limits.finalists is not None:
        settings = replace(settings, finalists=replace(settings.finalists, count=limits.finalists))
    two = study is not None and study.model is not None and study.model.dual_stream
    conditions = replace(measured.conditions, dual_stream=two)
    measured = replace(measured, conditions=conditions, compile_deadline_s=limits.compile_deadline_s)
    return Arguments(study, kernels or (), measured, storage, written, settings, verbose)


def _stop_rule(study: StudyFile | None, wanted: bool | None) -> StopRule | None:
    """Return the rule of the study file, unless the command line says that there be none, or one after all."""
    stop = study.stop if study else Stop()
    if wanted is not None:
        stop = (stop or Stop()) if wanted else None
    return StopRule(tolerance=stop.tolerance, risk=stop.risk) if stop else None


def with_mix(arguments: Arguments, active: Sequence[int], race: RaceChoice) -> SessionSettings:
    """Return the settings with a mix of numbers of adapters, if several are named. Raises InputError."""
    settings = arguments.settings
    if len(active) < 2:
        return settings
    model = arguments.study.model if arguments.study else None
    if model is None or race is not RaceChoice.IN_PLACE or arguments.measured.recordings is not None:
        raise InputError(
            "--active-loras: a mix is run in a model's layers, on a GPU: needs a model and no --race alone"
        )
    if max(active) > min(model.max_loras):
        raise InputError(f"--active-loras: expected at most --max-loras {min(model.max_loras)}, got {max(active)}")
    if len(active) > MOST_ACTIVE:
        raise InputError(f"--active-loras: expected at most {MOST_ACTIVE} numbers, got {len(active)}")
    return replace(settings, finalists=replace(settings.finalists, active=tuple(sorted(active))))
