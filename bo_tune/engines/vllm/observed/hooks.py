"""The hooks in vLLM: what they watch, and how. Read from vLLM 0.26.0 and 0.33.0, which are the same here.

vLLM caches lookups, and many modules import them by name. So they are watched outside the cache, under each of these
names. Uses only the standard library, because it runs inside a serving engine.

==============================  ==========================================  =================================
what                            where                                       runs
==============================  ==========================================  =================================
adapters, dense and experts'    ``get_lora_op_configs``                     outside replayed graphs
experts' adapters, no folder    ``try_get_optimal_moe_lora_config``         the same
base model's experts            ``try_get_optimal_moe_config``              the same
Mamba                           ``try_get_optimal_ssm_config``              the same
layers that take adapters       ``_create_lora_modules``                    once
size of a step                  ``GPUModelRunner.execute_model``            each step
  padded                        the call there that picks a CUDA graph      each step
==============================  ==========================================  =================================
"""

import inspect
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial, update_wrapper
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, ClassVar

from bo_tune.engines.vllm.observed import names
from bo_tune.engines.vllm.observed.after_import import AfterImport, Change
from bo_tune.engines.vllm.observed.recorder import Recorder

Function = Callable[..., Any]

LOGGER = logging.getLogger("vllm.bo_tune")
"""A child of vLLM's own logger, so that its lines are shown like vLLM's."""

MOST_SLICES = 16
"""Most slices of a layer whose shapes are recorded. Experts have thousands of views."""

_CACHE_METHODS = ("cache_clear", "cache_info", "cache_parameters")


@dataclass(frozen=True, slots=True)
class Lookup:
    """A function of vLLM's that looks up a config.

    Attributes:
        size: the argument with the size of the step. Lookups that differ only in it come from the same launches, of
            which the first is described.
    """

    kind: str
    module: str
    function: str
    size: str


@dataclass(frozen=True, slots=True)
class Runner:
    """A class of vLLM's that executes steps.

    Attributes:
        padding: name of what picks the CUDA graph of a step: a method of the class, or a function of its module.
        of_class: whether it is a method.
        place: index of the graph's description in its result.
    """

    module: str
    padding: str
    of_class: bool
    place: int

    owner: ClassVar[str] = "GPUModelRunner"
    execute: ClassVar[str] = "execute_model"

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts that a module with this class contains."""
        return f"class {self.owner}", f"def {self.execute}(", f"{self.padding}("


@dataclass(frozen=True, slots=True)
class Manager:
    """The class of vLLM's that wraps the layers that take adapters."""

    module: str = "vllm.lora.model_manager"
    owner: str = "LoRAModelManager"
    creates: str = "_create_lora_modules"


LOOKUPS = (
    Lookup(names.LORA, "vllm.lora.ops.triton_ops.utils", "get_lora_op_configs", "batch"),
    Lookup(names.UNTUNED_LORA, "vllm.lora.layers.utils", "try_get_optimal_moe_lora_config", "M"),
    Lookup(names.EXPERTS, "vllm.model_executor.layers.fused_moe.fused_moe", "try_get_optimal_moe_config", "M"),
    Lookup(names.MAMBA, "vllm.model_executor.layers.mamba.ops.mamba_ssm", "try_get_optimal_ssm_config", "batch"),
)
MANAGER = Manager()
RUNNERS = (
    Runner("vllm.v1.worker.gpu_model_runner", "_determine_batch_execution_and_padding", True, 1),
    Runner("vllm.v1.worker.gpu.model_runner", "dispatch_cg_and_sync_dp", False, 0),
)

_WEIGHTS = ("lora_a_weights", "lora_b_weights", "lora_a_stacked", "lora_b_stacked")
_LAUNCH_SHAPES = (*_WEIGHTS, "x", "y", "w2", "expert_map")
_LAYER_SHAPES = ("lora_a_stacked", "lora_b_stacked")
_LAUNCH_NUMBERS = ("max_loras", "num_tokens", "num_slices", "top_k", "local_num_experts", "fully_sharded")
"""Names of local variables in the functions that look up for a launch (``_lora_shrink``, ``_lora_expand``,
``add_lora_w13``, ``add_lora_w2``). Missing ones are not recorded."""


class Observer:
    """Watches one process. Never raises into the engine.

    Args:
        path: the file name from which those of all processes are derived.
        folder: folder of the package ``vllm``.
    """

    def __init__(self, path: Path, folder: Path, version: str) -> None:
        self._folder, self._version = folder, version
        self._recorder = Recorder(path, version)
        self._is_on = True
        self._padded = 0

    def install(self) -> None:
        """Watch what can be watched. Name the rest in one line of the log."""
        layers = self._holds(MANAGER.module, f"class {MANAGER.owner}", f"def {MANAGER.creates}(")
        lookups = [lookup for lookup in LOOKUPS if self._holds(lookup.module, f"def {lookup.function}(")]
        runners = [runner for runner in RUNNERS if self._holds(runner.module, *runner.texts)]
        changes: dict[str, Change] = {lookup.module: partial(self._watch_lookup, lookup) for lookup in lookups}
        changes |= {runner.module: partial(self._watch_runner, runner) for runner in runners}
        changes |= {MANAGER.module: self._watch_manager} if layers else {}
        missing = [] if layers else [f"{MANAGER.owner}.{MANAGER.creates}"]
        missing += [lookup.function for lookup in LOOKUPS if lookup not in lookups]
        missing += [] if runners else [f"{RUNNERS[0].owner}.{RUNNERS[0].execute}"]
        if missing:
            LOGGER.warning(
                "bo_tune: vLLM %s does not have these, so they are not observed: %s", self._version, ", ".join(missing)
            )
        AfterImport(changes, self.fail).install()
        os.register_at_fork(after_in_child=self._forked)

    def fail(self, error: Exception) -> None:
        """Switch off, and log it once."""
        if self._is_on:
            self._is_on = False
            LOGGER.warning("bo_tune: stopped recording lookups: %s: %s", type(error).__name__, error)

    def _forked(self) -> None:
        try:
            self._recorder.forked()
        except Exception as error:  # noqa: BLE001 - an engine goes on, whatever is wrong here
            self.fail(error)

    def _holds(self, module: str, *texts: str) -> bool:
        """Say whether a module contains these texts, without importing it."""
        path = self._folder.joinpath(*module.split(".")[1:]).with_suffix(".py")
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return False
        return all(text in content for text in texts)

    def _watch_lookup(self, lookup: Lookup, module: ModuleType) -> None:
        try:
            _replace(module, lookup.function, partial(self._watched, lookup))
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(error)

    def _watched(self, lookup: Lookup, original: Function) -> Function:
        entries, changed = self._recorder.entries, self._recorder.changed
        signature, kind = inspect.signature(original), lookup.kind
        is_compiling = _is_compiling()

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._is_on and not is_compiling():
                try:
                    key: Hashable = (kind, args, *kwargs.items())
                    try:
                        entry = entries.get(key)
                    except TypeError:  # an argument is a list
                        key = repr(key)
                        entry = entries.get(key)
                    if entry is None:
                        self._new_lookup(lookup, key, signature.bind(*args, **kwargs), sys._getframe(1))
                    else:
                        entry.count += 1
                        changed.add(entry)
                except Exception as error:  # noqa: BLE001 - as above
                    self.fail(error)
            return original(*args, **kwargs)

        return watched

    def _new_lookup(self, lookup: Lookup, key: Hashable, bound: inspect.BoundArguments, asks: FrameType) -> None:
        bound.apply_defaults()
        arguments = {name: _plain(value) for name, value in bound.arguments.items()}
        document: dict[str, Any] = {names.LOOKUP: lookup.kind, names.ARGUMENTS: arguments}
        family = (lookup.kind, *((name, repr(value)) for name, value in arguments.items() if name != lookup.size))
        if self._recorder.is_new(family):
            document[names.LAUNCH] = _launch(asks)
        self._recorder.add(key, document)

    def _watch_manager(self, module: ModuleType) -> None:
        try:
            _replace(getattr(module, MANAGER.owner), MANAGER.creates, self._named)
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(error)

    def _named(self, original: Function) -> Function:
        def creates(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._is_on:
                try:
                    for line, count in _layers(args[0].modules).items():
                        self._recorder.add((names.LAYER, line), {names.LAYER: json.loads(line)}, count)
                except Exception as error:  # noqa: BLE001 - as above
                    self.fail(error)
            return result

        return creates

    def _watch_runner(self, runner: Runner, module: ModuleType) -> None:
        try:
            owner = getattr(module, runner.owner)
            _replace(owner, runner.execute, self._counted)
            _replace(owner if runner.of_class else module, runner.padding, partial(self._padding, runner.place))
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(error)

    def _padding(self, place: int, original: Function) -> Function:
        def pads(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._is_on and not self._padded:
                try:
                    self._padded = int(result[place].num_tokens)
                except Exception as error:  # noqa: BLE001 - as above
                    self.fail(error)
            return result

        return pads

    def _counted(self, original: Function) -> Function:
        def executes(*args: Any, **kwargs: Any) -> Any:
            self._padded = 0
            result = original(*args, **kwargs)
            if self._is_on and args[3:4] != (True,) and not kwargs.get("dummy_run"):
                try:
                    scheduled = args[1] if len(args) > 1 else kwargs["scheduler_output"]
                    if tokens := scheduled.total_num_scheduled_tokens:
                        requests = scheduled.num_scheduled_tokens
                        sizes = tokens, max(self._padded, tokens), len(requests), _adapters(args[0], requests)
                        self._recorder.step(sizes)
                except Exception as error:  # noqa: BLE001 - as above
                    self.fail(error)
            return result

        return executes


def _adapters(runner: Any, requests: Iterable[str]) -> int:
    """Return the number of adapters that a step used."""
    if not runner.lora_config:
        return 0
    if (batch := getattr(runner, "input_batch", None)) is not None:
        return len(batch.lora_id_to_lora_request)
    known = runner.lora_state.lora_requests
    return len({request.lora_int_id for name in requests if (request := known.get(name)) is not None})


def _layers(modules: Mapping[str, Any]) -> Counter[str]:
    """Return each kind of layer as JSON, with its count."""
    return Counter(
        json.dumps(
            {
                names.NAME: ".".join("*" if part.isdecimal() else part for part in name.split(".")),
                names.KIND: type(module).__name__,
                names.WEIGHTS: _base_dtype(module),
                names.SHAPES: {
                    known: shapes
                    for known in _LAYER_SHAPES
                    if 0 < len(shapes := _shapes(getattr(module, known, None))) <= MOST_SLICES
                },
            }
        )
        for name, module in modules.items()
    )


def _base_dtype(module: Any) -> str | None:
    """Return the element type of the base layer's weights; None if it has none of the known names."""
    base = getattr(module, "base_layer", None)
    weights: list[Any] = [getattr(base, name, None) for name in ("weight", "qweight", "weight_packed")]
    return next((str(one.dtype).removeprefix("torch.") for one in weights if hasattr(one, "dtype")), None)


def _replace(owner: Any, name: str, wrapped: Callable[[Function], Function]) -> None:
    """Replace a function by a wrapper, also where modules of vLLM have imported it by name."""
    original = getattr(owner, name)
    wrapper = update_wrapper(wrapped(original), original)
    for method in _CACHE_METHODS:
        if hasattr(original, method):
            setattr(wrapper, method, getattr(original, method))
    setattr(owner, name, wrapper)
    if isinstance(owner, ModuleType):
        there = [module for path, module in list(sys.modules.items()) if path.startswith("vllm.")]
        for module in there:
            for known, value in list(vars(module).items()):
                if value is original:
                    setattr(module, known, wrapper)


def _is_compiling() -> Callable[[], bool]:
    """Return a function that says whether torch is tracing. While it is, it must see only the engine's own code."""
    torch = sys.modules.get("torch")
    found: Callable[[], bool] | None = getattr(getattr(torch, "compiler", None), "is_compiling", None)
    return found or (lambda: False)


def _launch(asks: FrameType) -> dict[str, Any]:
    """Describe the launch that a function looks up for, from its local variables."""
    there = asks.f_locals
    told: dict[str, Any] = {name: there[name] for name in _LAUNCH_NUMBERS if type(there.get(name)) in (int, bool)}
    shapes = {name: _shapes(there[name]) for name in _LAUNCH_SHAPES if name in there}
    dtypes = [str(one.dtype).removeprefix("torch.") for name in _WEIGHTS for one in _tensors(there.get(name))]
    return {
        **told,
        names.SHAPES: {name: found for name, found in shapes.items() if found},
        names.DTYPE: dtypes[0] if dtypes else None,
    }


def _shapes(value: Any) -> list[list[int]]:
    return [[int(size) for size in one.shape] for one in _tensors(value)]


def _tensors(value: Any) -> list[Any]:
    """Return a single tensor, or those of a list, as a list."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if hasattr(one, "shape")]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | int):
        return value
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else str(value)
