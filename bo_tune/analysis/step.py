"""Measures what adapters add to an engine's step: a decoder's layers, timed as an engine runs them.

The linears of one decoder layer, and its experts, run one after the other in a CUDA graph, each with its base product
(``kernels.chain``). They run without adapters, with the configs of an engine without a folder, and with those that it
finds in one. The rest of a layer (attention, norms) is not run. It costs the same with and without adapters.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from bo_tune.core.conclusion import SHARED
from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import Invalid, estimate_us
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import config_key
from bo_tune.core.surroundings import MOE_KERNELS, Batch, Choice, Layer, Linear
from bo_tune.engines.check import check_folder
from bo_tune.engines.folder import table_paths
from bo_tune.engines.models.layers_around import mixtures
from bo_tune.engines.models.problems import lookup_of
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.lookup import Found
from bo_tune.errors import DeviceError, InputError
from bo_tune.kernels.moe.spec import one_launch_problems
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Build, Device
from bo_tune.store.fields import Line, Setting, Time

DECODER = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""The parts of a decoder layer that take adapters, in order, for the decoders known here: Llama and similar ones."""

MIXTURE_DECODER = ("qkv_proj", "o_proj", "gate")
"""The same before experts, for Qwen's mixtures and similar ones. The experts come last."""

ROUNDS = 60
"""Replays of each graph, in turn."""

_Tuned = Mapping[tuple[object, ...], dict[str, int]]
"""Configs of a folder, by the key that distinguishes lookups (``lookup_of``)."""

_Choices = tuple[Choice, ...]
"""Configs of every layer's kernels."""


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Times of the parts of a decoder layer that take adapters, in an engine of one or two streams, in us.

    Attributes:
        bare_us: without adapters.
        untuned_us: with adapters, and the configs of an engine without a folder.
        tuned_us: with the configs that it finds in the folder; None without one, or if it lacks a lookup.
        python_us: how long the engine's Python takes to launch the adapters' kernels; None if no engine has them.
    """

    bare_us: float
    untuned_us: float
    tuned_us: float | None
    python_us: float | None

    @property
    def ran_us(self) -> float:
        """The time as the engine runs it: with the folder, if there is one."""
        return self.untuned_us if self.tuned_us is None else self.tuned_us

    @property
    def best_us(self) -> float:
        """The best time with adapters, with or without the folder."""
        return self.untuned_us if self.tuned_us is None else min(self.tuned_us, self.untuned_us)


@dataclass(frozen=True)
class StepReport:
    """The time that adapters add to steps.

    Attributes:
        layers: number of the model's decoder layers.
        times: by tokens in a step, and by whether the engine runs two streams.
        lacking: what keeps an engine of one or two streams from using the folder.
    """

    model: str
    gpu: str
    layers: int
    folder: Path | None
    times: Mapping[int, Mapping[bool, LayerTimes]]
    lacking: Mapping[bool, str]

    @property
    def ways(self) -> list[bool]:
        """For each timed way, whether the engine runs two streams."""
        return sorted({two for ways in self.times.values() for two in ways})

    @property
    def faster_on_two(self) -> list[int]:
        """The m at which two streams beat one; empty if only one way was timed."""
        both = {m: ways for m, ways in self.times.items() if len(ways) > 1}
        return [m for m, ways in both.items() if ways[True].best_us < ways[False].best_us]

    @property
    def python_bound(self) -> list[int]:
        """The m at which the adapters' Python alone takes longer than the GPU takes for the layers, uncaptured."""
        first = {m: next(iter(ways.values())) for m, ways in self.times.items()}
        return [m for m, one in first.items() if one.python_us is not None and one.python_us > one.best_us]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values. Times are of one decoder layer, in us."""
        return {
            "model": self.model,
            "gpu": self.gpu,
            "layers": self.layers,
            "tuned": str(self.folder) if self.folder else None,
            "lacking": {_streams(two): reason for two, reason in self.lacking.items()},
            "steps": [
                {"m": m, "streams": _streams(two), **asdict(one)}
                for m, ways in self.times.items()
                for two, one in ways.items()
            ],
        }

    @classmethod
    def from_json(cls, stored: object) -> "StepReport":
        """Read a report that ``to_json`` wrote. Raises pydantic's ValidationError, a ValueError."""
        read = _Stored.model_validate(stored)
        times: dict[int, dict[bool, LayerTimes]] = {}
        for step in read.steps:
            one = LayerTimes(step.bare_us, step.untuned_us, step.tuned_us, step.python_us)
            times.setdefault(step.m, {})[step.streams == "two"] = one
        folder = Path(read.tuned) if read.tuned else None
        lacking = {way == "two": reason for way, reason in read.lacking.items()}
        return cls(read.model, read.gpu, read.layers, folder, times, lacking)


def _streams(two: bool) -> str:
    return "two" if two else "one"


class _StoredStep(BaseModel):
    m: Setting
    streams: Literal["one", "two"]
    bare_us: Time
    untuned_us: Time
    tuned_us: Time | None
    python_us: Time | None


class _Stored(BaseModel):
    """A report as JSON."""

    model: Line
    gpu: Line
    layers: Setting
    tuned: Line | None
    lacking: Mapping[Literal["one", "two"], str]
    steps: Annotated[list[_StoredStep], Field(min_length=1, max_length=10_000)]


@dataclass(frozen=True)
class Decoder:
    """A decoder as an engine of one or two streams runs it.

    Attributes:
        model: its ``dual_stream`` says which.
        folder: of tuned files; None for none.
    """

    model: ModelStudy
    folder: Path | None

    @property
    def conditions(self) -> Conditions:
        """The conditions under which such an engine launches."""
        return Conditions(dual_stream=self.model.dual_stream)

    @property
    def layers(self) -> list[Layer]:
        """The parts of a decoder layer that take adapters, in order.

        Raises:
            InputError: its step is not known here.
        """
        model, known = self.model, MIXTURE_DECODER if self.model.has_experts else DECODER
        inner = {one.name: one for one in model.layers if one.shrink_k is not None and not one.per_sequence}
        if set(inner) != set(known):
            odd = ", ".join(sorted(set(inner) - set(known))) or "some that take no adapters"
            raise InputError(
                f"{model.shape.name}: only a decoder of {', '.join(known)}{' and experts' * model.has_experts}, "
                f"each with adapters, can be timed; this model has {odd}"
            )
        experts = mixtures(model.problems_by_layer(MOE_KERNELS))
        if any(layer.shrink_shards > 1 for layer in inner.values()) or (model.has_experts and not experts):
            raise InputError(
                f"{model.shape.name}: steps with fully sharded adapters cannot be timed, because their kernels "
                "communicate across GPUs"
            )
        weights = model.shape.weights
        adds = {name: layer.adds(dual_stream=model.dual_stream)[0] for name, layer in inner.items()}
        linears = [
            Linear(k, inner[name].slice_sizes, adds[name], weights)
            for name in known
            if (k := inner[name].shrink_k) is not None
        ]
        return [*linears, *experts]

    def check(self) -> None:
        """Refuse what cannot be timed, before a GPU is opened. Raises InputError, or TableError for the folder."""
        self.batch(self.model.ms[0])
        if not self.layers:
            raise InputError(f"{self.model.shape.name}: no layer of this model takes adapters")
        if self.folder is not None:
            table_paths(self.folder)

    def batch(self, m: int) -> Batch:
        """Return a step of m tokens. Raises InputError if there are several ranks or numbers of adapters."""
        ranks, slots = self.model.ranks, self.model.max_loras
        if len(ranks) > 1 or len(slots) > 1:
            raise InputError("--rank, --max-loras: expected one value of each, because a step has one")
        return Batch(slots[0], ranks[0], m, self.model.dtype or self.model.shape.dtype)

    def tuned(self, gpu: str) -> _Tuned:
        """Return what the engine finds in the folder. Raises InputError for what the folder lacks."""
        if self.folder is None:
            return {}
        report = check_folder(self.folder, self.model, gpu=gpu, ms=self.model.ms)
        for fault in report.faults:
            raise InputError(": ".join(filter(None, (fault.file, fault.place, fault.reason))))
        return {
            lookup_of(item.problem): {name: value for name, value in item.found.config.items() if value is not None}
            for item in report.lookups
            if isinstance(item.problem, LoraProblem) and isinstance(item.found, Found)
        }


class StepTimer:
    """Times the steps of a decoder on a GPU."""

    def __init__(self, device: Device, decoder: Decoder, rounds: int = ROUNDS) -> None:
        self._device, self._decoder, self._rounds = device, decoder, rounds
        self._layers = decoder.layers
        self.lacking: str | None = None
        try:
            self._found = decoder.tuned(device.gpu.name)
        except InputError as error:
            self.lacking, self._found = str(error), {}

    def time(self, m: int) -> LayerTimes:
        """Time a step of m tokens. Raises DeviceError if it cannot run."""
        batch = self._decoder.batch(m)
        untuned = self._choices(batch, {})
        tuned = self._choices(batch, self._found) if self._found else None
        self._compile(batch, [untuned, *([tuned] if tuned else [])])
        choices = (None, untuned) if tuned is None else (None, untuned, tuned)
        timed = self._device.time_step(self._layers, batch, choices, self._rounds)
        bare_us, untuned_us, *more = (estimate_us(runs) for runs in timed.runtimes_us)
        return LayerTimes(bare_us, untuned_us, more[0] if more else None, timed.python_us)

    def _choices(self, batch: Batch, found: _Tuned) -> _Choices:
        def config(problem: LoraProblem) -> dict[str, int]:
            default = self._device.default_config(kernel_spec(problem.kernel), problem)
            return {**default, **found.get(lookup_of(problem), {})}

        def choice(layer: Layer) -> Choice:
            problems = layer.kernels(batch)
            configs = {problem.kernel: config(problem) for problem in problems}
            in_their_place = self._device.decided_by(problems[0])  # these take only block_m of the first
            return {kernel: {SHARED: configs[problems[0].kernel][SHARED]} for kernel in in_their_place} or configs

        return tuple(map(choice, self._layers))

    def _compile(self, batch: Batch, wanted: Sequence[_Choices]) -> None:
        """Compile on all cores what the GPU process would otherwise compile one after the other."""
        builds: dict[object, Future[Build]] = {}
        for choices in wanted:
            for layer, choice in zip(self._layers, choices, strict=True):
                problems = layer.kernels(batch)
                known = {problem.kernel: problem for problem in (*problems, *one_launch_problems(problems))}
                for problem, config in ((known[kernel], config) for kernel, config in choice.items()):
                    key = problem, config_key(config)
                    if key not in builds:
                        builds[key] = self._device.compile(problem, config)
        for build in (future.result() for future in builds.values()):
            if isinstance(build, Invalid):
                raise DeviceError(f"a config of a step cannot be compiled: {build.detail or build.reason.value}")


def timed(decoders: Sequence[Decoder], open_gpu: Callable[[Conditions], AbstractContextManager[Device]]) -> StepReport:
    """Time the steps of a decoder, as engines of one or two streams run it.

    Args:
        decoders: each way that is to be timed.
        open_gpu: opens the GPU that measures under some conditions, for the duration of the context.

    Raises:
        DeviceError: the GPU cannot be used, or a step cannot run.
    """
    model, folder = decoders[0].model, decoders[0].folder
    times: dict[int, dict[bool, LayerTimes]] = {m: {} for m in model.ms}
    lacking: dict[bool, str] = {}
    for decoder in decoders:
        two = decoder.model.dual_stream
        with open_gpu(decoder.conditions) as gpu:
            timer, name = StepTimer(gpu, decoder), gpu.gpu.name
            if timer.lacking is not None:
                lacking[two] = timer.lacking
            for m in model.ms:
                times[m][two] = timer.time(m)
    return StepReport(model.shape.name, name, model.shape.layer_count, folder, times, lacking)
