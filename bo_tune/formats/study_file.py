"""Study files: the problems to tune, the ranges, and the costs. TOML, checked with the place of each error.

``study_schema`` defines their contents, and ``docs/study-file.md`` shows them with examples.
"""

import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bo_tune.core.problem import Experts, LoraProblem, Problem
from bo_tune.core.space import SearchSpace
from bo_tune.core.surroundings import Layer
from bo_tune.engines.models.engine import MAX_SEQUENCES
from bo_tune.engines.models.layers_around import layers_around
from bo_tune.engines.models.problems import DENSE_KERNELS, EXPAND, lookup_of
from bo_tune.engines.models.serving import MOST_PROBLEMS, ModelStudy
from bo_tune.engines.registry import served_problems
from bo_tune.engines.vllm.derived import derived
from bo_tune.engines.vllm.observed.study import ObservedStudy
from bo_tune.errors import InputError, StudyFileError
from bo_tune.files import levels, os_error_text, read_text
from bo_tune.formats.recording_format import shown
from bo_tune.formats.study_schema import Budget, ModelTable, ProblemTable, StudyTables, describe, suggestion
from bo_tune.kernels.registry import KERNELS, OF_BASE_MODEL, engine_spec, kernel_spec
from bo_tune.kernels.spec import AnySpec

MOST_BYTES = 2**20
"""Most bytes of a study file, which are thousands of problems."""

MOST_DOTS = 200
"""Most dots in a line of it."""

DEFAULT_RANKS = (16,)
"""vLLM's own default of ``--max-lora-rank``."""

Ranges = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Kernel to parameter to values, ascending."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A study may end early if, with at most this risk, an untried config is better by more than tolerance."""

    tolerance: float = 0.01
    risk: float = 0.10


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study file, checked. The command line's ``--model`` builds one too. Change it with ``dataclasses.replace``.

    Attributes:
        source: the file that it was read from, if any.
        kernels: kernels to tune. Problems of others are ignored.
        whole: whether kernels of the model were not chosen by name. The model then has more than those of its adapters.
        observed: an engine's lookups, in place of a model.
        explicit: problems named one by one, m by m (the ``[[problem]]`` entries), each with the layers that it serves,
            if known.
        stop: when a study may end before its budget; None for never.
        space: ranges that replace those of the kernels' own search spaces.
    """

    name: str
    source: Path | None = None
    kernels: tuple[str, ...] = DENSE_KERNELS
    model: ModelStudy | None = None
    whole: bool = False
    observed: ObservedStudy | None = None
    explicit: Mapping[LoraProblem, tuple[str, ...]] = field(default_factory=dict)
    space: Ranges = field(default_factory=dict)
    budget: Budget = Budget()
    sampler: str = "grid-gp"
    seed: int = 0
    stop: Stop | None = Stop()

    @classmethod
    def from_model(cls, model: ModelStudy) -> "StudyFile":
        """Return the study of a model without a file. It is named after the model."""
        return cls(model.shape.name, model=model, kernels=model.kernels, whole=True)

    @classmethod
    def from_observed(cls, observed: ObservedStudy) -> "StudyFile":
        """Return the study of an engine's lookups."""
        return cls(observed.name, observed=observed, kernels=observed.kernels)

    @property
    def dual_stream(self) -> bool:
        """Whether the engine has two streams."""
        served = self.model or self.observed
        return served is not None and served.dual_stream

    @property
    def slots(self) -> int | None:
        """The smallest number of adapter slots of its engines; None if there are only explicit problems."""
        served = self.model or self.observed
        return min(served.max_loras) if served else None

    @property
    def note(self) -> str | None:
        """How the engine must be started to make these lookups, or what is left open; None if nothing."""
        served = self.model or self.observed
        return served.note if served else None

    def problems(self) -> list[Problem]:
        """Return the problems to tune, each once."""
        return list(self.problems_by_layer())

    def problems_by_layer(self) -> dict[Problem, tuple[str, ...]]:
        """Return the problems to tune, each once, with the layers that they serve, if known."""
        served = served_problems(self.model, self.kernels) if self.model else {}
        served = {**served, **(self.observed.problems_by_layer(self.kernels) if self.observed else {})}
        known = {lookup_of(problem) for problem in served if isinstance(problem, LoraProblem)}
        more = {problem: layers for problem, layers in self.explicit.items() if problem.kernel in self.kernels}
        return {**served, **{problem: names for problem, names in more.items() if lookup_of(problem) not in known}}

    def looked_up(self) -> dict[Problem, tuple[str, ...]]:
        """Return the problems whose configs the engine looks up, as ``problems_by_layer``, tuned or not."""
        if self.observed:
            return self.observed.problems_by_layer()
        return served_problems(self.model) if self.model else {}

    def layers(self) -> dict[Problem, Layer]:
        """Return the layer of each problem that has one."""
        if self.observed:
            return self.observed.layers()
        return layers_around(self.model, self.problems_by_layer()) if self.model else {}

    @property
    def layer_problem_count(self) -> int:
        """Number of problems if layers shared none."""
        return sum(max(1, len(layers)) for layers in self.problems_by_layer().values())

    def search_space(self, spec: AnySpec) -> SearchSpace:
        """Return the kernel's search space with this study's ranges."""
        return spec.search_space.override(self.space.get(spec.name, {}))


def load_study_file(path: Path, changes: Mapping[str, Any] | None = None) -> StudyFile:
    """Read and check a study file.

    Args:
        changes: arguments of ``ModelStudy.of`` that override the file's model, if it has one; and ``derived``, whether
            to ask the installed vLLM for its layers. Paths are relative to the current folder.

    Raises:
        StudyFileError: it cannot be read, or something in it is wrong. The message is one line, with the file and the
            key.
        ModelError: the model's config cannot be used, or the model cannot be sharded like this.
    """
    try:
        text = read_text(path, MOST_BYTES)
    except OSError as error:
        raise StudyFileError(f"{path}: {os_error_text(error)}") from None
    except ValueError as error:
        raise StudyFileError(f"{path}: {error}") from None
    try:
        if any(line.count(".") > MOST_DOTS and not line.startswith("#") for line in text.splitlines()):
            raise ValueError(f"a line with more than {MOST_DOTS} dots")  # 100,000 parts take over a minute
        data = tomllib.loads(text)
        deque(levels(data), maxlen=0)  # finds nesting that is too deep for code that walks through it
    except (ValueError, RecursionError) as error:
        end = f"at line {len(text.splitlines())}, the end"
        reason = " ".join(str(error).split()).replace("at end of document", end)
        raise StudyFileError(f"{path}: not TOML: {reason}") from None
    return parse_study(data, path, changes)


def parse_study(data: Mapping[str, Any], source: Path, changes: Mapping[str, Any] | None = None) -> StudyFile:
    """Check a parsed study file. Raises like ``load_study_file``.

    Args:
        source: the file's path, for messages and relative paths.
        changes: as in ``load_study_file``.
    """
    try:
        return _build(StudyTables.model_validate(data), source, changes or {})
    except ValidationError as error:
        raise StudyFileError(f"{source}: {describe(error, data)}") from None
    except _KeyError as error:
        raise StudyFileError(f"{source}: {error}") from None


class _KeyError(ValueError):
    """A key is wrong for a reason that its own table cannot tell. The message begins with the key."""


def _build(tables: StudyTables, source: Path, changes: Mapping[str, Any]) -> StudyFile:
    if tables.model is None and not tables.problem:
        raise _KeyError("expected a [model] table or at least one [[problem]]")
    for index, kernel in enumerate(tables.kernels or ()):
        _check_looked_up(kernel, f"kernels[{index}]")
    model = _model(tables.model, source, changes) if tables.model else None
    kernels = tuple(tables.kernels or _kernels_of(tables, model))
    study = StudyFile(
        name=tables.name or source.stem,
        source=source,
        kernels=kernels,
        model=model,
        whole=model is not None and not tables.kernels,
        explicit=dict.fromkeys(_explicit(tables.problem), ()),
        space=_space(tables.space),
        budget=tables.budget,
        sampler=tables.search.sampler,
        seed=tables.search.seed,
        stop=Stop(**tables.search.model_dump(include={"tolerance", "risk"})) if tables.search.stop else None,
    )
    if not (count := len(study.problems())):
        raise _KeyError(f"kernels: this file has no problem of {', '.join(kernels)}")
    if count > MOST_PROBLEMS:
        raise _KeyError(f"expected at most {MOST_PROBLEMS} problems, got {count}")
    return study


def _kernels_of(tables: StudyTables, model: ModelStudy | None) -> tuple[str, ...]:
    """Return the kernels of a file that names none: those of its model and of its problems."""
    named = [problem.kernel for problem in tables.problem]
    return tuple(dict.fromkeys([*(model.kernels if model else ()), *named]))


def _model(table: ModelTable, source: Path, changes: Mapping[str, Any]) -> ModelStudy:
    adapters = [source.parent / adapter for adapter in table.adapter or ()]
    values: dict[str, Any] = {
        "config": table.config,
        "tensor_parallel": table.tensor_parallel,
        "ranks": table.ranks or (),
        "max_loras": table.max_loras,
        "ms": table.m,
        "dtype": table.dtype,
        "add_inputs": table.add_inputs,
        "fully_sharded": table.fully_sharded,
        "target_modules": table.target_modules,
        "expert_parallel": table.expert_parallel,
        "adapters": adapters,
        "unpacked_experts": table.mixed_moe_lora_format or table.moe_shared_loras,
        "max_sequences": table.max_num_seqs or MAX_SEQUENCES,
        "max_batched_tokens": table.max_num_batched_tokens,
        "draft_tokens": table.num_speculative_tokens,
        "dual_stream": table.dual_stream,
        "quantization": table.quantization,
        **changes,
    }
    if not values["ranks"] and not values["adapters"]:
        values["ranks"] = DEFAULT_RANKS
    if values["dual_stream"] and values["add_inputs"] is not None:
        raise _KeyError("model.add_inputs: leave this out with dual_stream, which decides it for each layer")
    made = derived if values.pop("derived", False) else ModelStudy.of
    return made(**values, relative_to=Path() if "config" in changes else source.parent)


def _explicit(tables: Sequence[ProblemTable]) -> tuple[LoraProblem, ...]:
    found: dict[tuple[object, ...], int] = {}
    problems = []
    for index, table in enumerate(tables):
        _check_kernel(table.kernel, f"problem[{index}].kernel")
        for problem in _problems_of(table, f"problem[{index}]"):
            first = found.setdefault(lookup_of(problem), index)
            if first != index:
                raise _KeyError(f"problem[{index}]: {problem} has the same lookup as problem[{first}]; leave one out")
            problems.append(problem)
    return tuple(problems)


def _problems_of(table: ProblemTable, place: str) -> list[LoraProblem]:
    """Return the problems of one entry, one for each m."""
    if (table.i is not None) != engine_spec(table.kernel).table_level_i:
        raise _KeyError(f"{place}.i: expected {'no i' if table.i else 'an integer >= 1'} for {table.kernel}")
    if table.slice_sizes and (len(table.slice_sizes), max(table.slice_sizes)) != (table.num_slices, table.n):
        raise _KeyError(
            f"{place}.slice_sizes: expected {table.num_slices} widths, of which the widest is n {table.n}, got "
            f"{shown(table.slice_sizes)}"
        )
    add_inputs = table.add_inputs
    if table.kernel == EXPAND:
        add_inputs = add_inputs is not False
    elif add_inputs is not None:
        raise _KeyError(f"{place}.add_inputs: this has no meaning for {table.kernel}; leave it out")
    sizes = table.model_dump(include={"kernel", "max_loras", "num_slices", "k", "n", "i", "dtype"})
    widths, experts = tuple(table.slice_sizes), _experts(table, place)
    try:
        return [LoraProblem(**sizes, m=m, slice_sizes=widths, add_inputs=add_inputs, experts=experts) for m in table.m]
    except ValueError as error:
        raise _KeyError(f"{place}.{error}") from None


def _experts(table: ProblemTable, place: str) -> Experts | None:
    """Return the experts of an entry; None for a dense kernel."""
    names = ("num_experts", "top_k", "local_experts", "rank_shards", "packed_gate_up")
    given = {name: getattr(table, name) for name in names}
    if table.i is None:
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise _KeyError(f"{place}.{named[0]}: this has no meaning for {table.kernel}; leave it out")
        return None
    for name in ("num_experts", "top_k"):
        if given[name] is None:
            raise _KeyError(f"{place}.{name}: expected an integer >= 1 for {table.kernel}")
    packed = bool(given["packed_gate_up"])
    _check_slices(table, place, packed=packed)
    counts = given["num_experts"], given["top_k"], given["local_experts"] or 0, given["rank_shards"] or 1
    try:
        return Experts(*counts, packed=packed)
    except ValueError as error:
        raise _KeyError(f"{place}: {error}") from None


def _check_slices(table: ProblemTable, place: str, *, packed: bool) -> None:
    """Refuse slices of experts that no engine looks up."""
    gate_up = "w13" in table.kernel
    most = 2 if gate_up and not packed else 1
    if table.num_slices > most:
        why = " with packed_gate_up" if packed and gate_up else ""
        allowed = "1 or 2" if most > 1 else "1"
        raise _KeyError(f"{place}.num_slices: expected {allowed} for {table.kernel}{why}, got {table.num_slices}")
    if packed and gate_up and table.i is not None and table.i % 2:
        raise _KeyError(
            f"{place}.i: expected an even number with packed_gate_up, because it is the size of gate and up together, "
            f"got {table.i}"
        )


def _space(tables: Mapping[str, Mapping[str, Sequence[int]]]) -> Ranges:
    space = {}
    for kernel, ranges in tables.items():
        _check_looked_up(kernel, f"space.{kernel}")
        spec = kernel_spec(kernel)
        for name, values in ranges.items():
            place = f"space.{kernel}.{name}"
            if name not in spec.search_space.names:
                raise _KeyError(f"{place}: unknown parameter; {suggestion(name, list(spec.search_space.names))}")
            odd = [value for value in values if value & (value - 1)]
            if odd and name in spec.power_of_two:
                raise _KeyError(f"{place}: expected powers of two, got {shown(odd[0])}")
        space[kernel] = {name: tuple(sorted(values)) for name, values in ranges.items()}
        try:
            spec.search_space.override(space[kernel]).check_size()
        except InputError as error:
            raise _KeyError(f"space.{kernel}: {error}") from None
    return space


def _check_looked_up(kernel: str, place: str) -> None:
    """Refuse a name that is neither a kernel of adapters nor one of the base model's, which only a model asks for."""
    if kernel not in OF_BASE_MODEL:
        _check_kernel(kernel, place)


def _check_kernel(kernel: str, place: str) -> None:
    if kernel not in KERNELS:
        raise _KeyError(f"{place}: unknown kernel {shown(kernel)}; {suggestion(kernel, list(KERNELS))}")
