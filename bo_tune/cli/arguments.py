"""What the command lines of ``tune``, ``grid`` and ``compile`` mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bo_tune.cli.options import Measuring, integers
from bo_tune.cli.served import Served
from bo_tune.core.choices import GRID, LEASE_S, EngineChoice, MoePathChoice, Part, RaceChoice, StreamChoice
from bo_tune.core.conclusion import StopRule
from bo_tune.core.problem import Problem
from bo_tune.core.surroundings import Layer
from bo_tune.engines.vllm.experts import unserved as unserved_experts
from bo_tune.engines.vllm.observed.study import ObservedStudy
from bo_tune.errors import InputError
from bo_tune.formats.study_file import Stop, StudyFile, load_study_file
from bo_tune.formats.study_schema import Budget
from bo_tune.kernels.experts.step import KERNEL as EXPERTS
from bo_tune.kernels.mamba.step import KERNEL as MAMBA
from bo_tune.kernels.registry import OF_BASE_MODEL, kernel_spec
from bo_tune.measure.backends.registry import recordings_named
from bo_tune.measure.devices import kernel_source
from bo_tune.measure.source import VLLM
from bo_tune.session.settings import MOST_ACTIVE, SessionSettings
from bo_tune.session.workers.measuring import Measured

DEFAULT_BUDGET = 40

PARTS_OF_BASE = {Part.EXPERTS: EXPERTS, Part.MAMBA: MAMBA}
"""The kernels of a base model that can be tuned, and the part that each belongs to."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of ``tune`` or ``grid``.

    Attributes:
        out: folder of the JSON files.
        record: folder of recordings; None to write none.
        named: the words of the command line that name what is looked up, with absolute paths; none where none did.
    """

    study: StudyFile | None
    kernels: Sequence[str]
    measured: Measured
    storage: str
    out: Path
    settings: SessionSettings
    verbose: bool
    record: Path | None = None
    choose_m: bool = False
    fresh: bool = False
    lease_s: float = LEASE_S
    ray: str | None = None
    workers: int | None = None
    race: RaceChoice = RaceChoice.IN_PLACE
    named: Sequence[str] = ()

    @property
    def layers(self) -> Mapping[Problem, Layer]:
        """The layers in which finalists are to race, by problem."""
        return self.study.layers() if self.study is not None and self.race is RaceChoice.IN_PLACE else {}


def problems_of(study: StudyFile, kernels: Sequence[str]) -> list[Problem]:
    """Return a study's problems of some kernels, of all where none is named. Raises InputError where there are none."""
    for name in kernels:
        kernel_spec(name)
    problems = [p for p in study.problems() if not kernels or p.kernel in kernels]
    if not problems:
        what = f"--kernel: this study has no problem of {', '.join(kernels)}"
        why = (unserved_experts(study.model) if study.model else "") or "an engine makes no lookups for it"
        raise InputError(what if kernels else f"{study.name}: there is nothing to tune: {why}")
    return problems


def study_of(study: Path | None, served: Served) -> StudyFile | None:
    """Return the problems that the command line asks for, with the layers they serve, whatever names them: a study
    file, of which options change the model, or a model alone. None where it names nothing.

    Every command that tunes, compiles or lists problems has them from here.

    Raises:
        InputError: what is named cannot be read or used, or options belong to nothing that is named.
    """
    given = served.given()
    if served.lookups is not None:
        return StudyFile.from_observed(observed_of(study, served))
    if study is not None:
        loaded = load_study_file(study, served.settings())
        if given and loaded.model is None:
            raise InputError(
                f"{given[0]}: this option changes a model, but {study} names its problems one by one; leave the "
                "option out"
            )
        return loaded
    if served.model is None:
        if given:
            raise InputError(f"{given[0]} needs a model; name one with --model, or use a study file")
        return None
    return StudyFile.from_model(served.study())


def measures_base_model(measuring: Measuring) -> bool:
    """Say whether the base model's kernels can be tuned: engines alone have them, and recordings hold what they hold.

    Raises:
        DeviceError: the kernels that are asked for cannot be had.
    """
    return recordings_named(measuring.device) is None and kernel_source(measuring.kernels) == VLLM


def _engine(study: StudyFile) -> EngineChoice:
    """Return the engine whose lookups a study holds."""
    return study.model.engine if study.model is not None else EngineChoice.VLLM


def narrowed(study: StudyFile | None, parts: Sequence[str] | None, *, whole: bool) -> StudyFile | None:
    """Return a study of what the command line names of its model. Raises InputError.

    Args:
        parts: values of ``Part``, of which one text may hold several; none for all.
        whole: whether all are the base model's, too; else adapters' kernels alone.
    """
    named = list(filter(None, (word.strip() for text in parts or () for word in text.split(","))))
    if not named:
        all_of_it = whole and study is not None and study.whole and _engine(study) is EngineChoice.VLLM
        return replace(study, kernels=(*study.kernels, *OF_BASE_MODEL)) if study and all_of_it else study
    unknown = [word for word in named if word not in set(Part)]
    if unknown:
        raise InputError(f"--only: expected some of {', '.join(Part)}, got {unknown[0]!r}")
    if study is None or not (study.model or study.observed):
        raise InputError("--only needs a model; name one with --model, or in the study file")
    if study.observed and Part.EXPERTS in named:
        raise InputError("--only experts does not work with --lookups; name the model with --model instead")
    adapters = [kernel for kernel in study.kernels if kernel not in OF_BASE_MODEL]
    of_base = [kernel for part, kernel in PARTS_OF_BASE.items() if part in named]
    return replace(study, kernels=(*(adapters if Part.LORA in named else ()), *of_base))


def observed_of(study: Path | None, served: Served) -> ObservedStudy:
    """Return what the engine of ``--lookups`` looked up. Raises InputError, also for what names problems besides."""
    beside = [option for option in served.given() if option not in ("--lookups", "--m")]
    if study is not None or beside:
        what = beside[0] if beside else study
        raise InputError(f"--lookups: this file already has everything that the engine looks up; leave out {what}")
    return ObservedStudy.of(served.lookups or Path(), integers(served.m, "--m"))


def with_streams(study: StudyFile | None, streams: StreamChoice | None) -> StudyFile | None:
    """Return a study as the command line wants adapters run: as it says itself where nothing is said, or both ways are
    meant. Raises InputError."""
    return study if streams in (None, StreamChoice.BOTH) else on_streams(study, two=streams is StreamChoice.TWO)


def on_streams(study: StudyFile | None, *, two: bool) -> StudyFile:
    """Return a study for an engine of one stream or of two. Raises InputError where it is of no model."""
    if study is not None and study.observed is not None:
        raise InputError("--streams: --lookups already says how the engine runs adapters")
    if study is None or study.model is None:
        raise InputError("--streams needs a model; name one with --model, or in the study file")
    if two and study.model.add_inputs is not None:
        raise InputError(
            "--streams cannot be combined with model.add_inputs of the study file, which holds for all layers; leave "
            "one out"
        )
    return replace(study, model=replace(study.model, dual_stream=two))


def measured_of(study: StudyFile | None, measuring: Measuring, path: MoePathChoice, *, mixed: bool = False) -> Measured:
    """Put together what the command line and the study file say of measuring. Raises InputError.

    Args:
        mixed: whether steps may use several numbers of adapters.
    """
    two = study is not None and study.dual_stream
    deadline_s = study.budget.compile_deadline_s if study else None
    measured = measuring.measured(path, dual_stream=two, deadline_s=deadline_s, mixed=mixed)
    if study is None or study.model is None or study.model.engine is not EngineChoice.SGLANG:
        return measured
    if measured.source not in ("auto", EngineChoice.SGLANG):
        raise InputError(
            f"--kernels {measured.source}: --engine sglang can only tune SGLang's own kernels; leave --kernels out"
        )
    return replace(measured, source=EngineChoice.SGLANG)


def settings_of(
    study: StudyFile | None,
    sampler: str,
    kernels: Sequence[str],
    budget: int | None,
    seed: int | None,
    stop: bool | None = None,
) -> SessionSettings:
    """Put together what the command line and the study file, which it overrides, say of a search. Raises InputError."""
    for name in kernels:
        kernel_spec(name)
    limits = study.budget if study else Budget()
    settings = SessionSettings(
        sampler=sampler,
        budget=budget or (None if sampler == GRID else limits.launched_configs or DEFAULT_BUDGET),
        seed=seed if seed is not None else study.seed if study else 0,
        stop_rule=_stop_rule(study, stop),
        spaces=study.space if study else {},
    )
    if study and study.observed and settings.budget:
        settings = replace(settings, budgets=study.observed.budgets(settings.budget))
    if limits.finalists is None:
        return settings
    return replace(settings, finalists=replace(settings.finalists, count=limits.finalists))


def _stop_rule(study: StudyFile | None, wanted: bool | None) -> StopRule | None:
    """Return the stop rule of the study file, unless the command line switches it off or on."""
    stop = study.stop if study else Stop()
    if wanted is not None:
        stop = (stop or Stop()) if wanted else None
    return StopRule(tolerance=stop.tolerance, risk=stop.risk) if stop else None


def with_mix(arguments: Arguments, active: Sequence[int]) -> Arguments:
    """Return the arguments with a mix of numbers of adapters, if several are named. Raises InputError."""
    if len(active) < 2:
        return arguments
    slots = arguments.study.slots if arguments.study else None
    if slots is None or arguments.race is not RaceChoice.IN_PLACE or arguments.measured.recordings is not None:
        raise InputError(
            "--active-loras: several numbers are compared in a model's layers, on a GPU; this needs a model, and "
            "no --race alone"
        )
    if max(active) > slots:
        raise InputError(f"--active-loras: expected at most --max-loras {slots}, got {max(active)}")
    if len(active) > MOST_ACTIVE:
        raise InputError(f"--active-loras: expected at most {MOST_ACTIVE} numbers, got {len(active)}")
    finalists = replace(arguments.settings.finalists, active=tuple(sorted(active)))
    return replace(arguments, settings=replace(arguments.settings, finalists=finalists))
