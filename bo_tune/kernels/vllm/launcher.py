"""vLLM's own Python launcher of one kernel, asked what it launches for a config.

The launcher runs in a namespace of its own. There, its lookup returns the chosen config, its platform is the GPU that
is compiled for, and its kernel notes the launch instead of starting it. So nothing of what vLLM makes of a config is
copied here: arguments, strides, pointer tables, constants and forced options are vLLM's own.
"""

import hashlib
import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.autotuner import Autotuner, Heuristics

from bo_tune.core.problem import DEFAULT_BACKEND, GpuInfo
from bo_tune.core.space import Config
from bo_tune.errors import one_line
from bo_tune.kernels.vllm.installed import KERNELS_PACKAGE, LAUNCHERS, VllmError, refusal
from bo_tune.kernels.vllm.kernel_call import CONFIG_PARAMETERS, CapturedCall
from bo_tune.kernels.vllm.private_copy import PrivateCopy

LOOKUP = "get_lora_op_configs"
"""vLLM's function that finds the config of a problem."""

NOT_IN_ALL_VERSIONS = frozenset({"no_lora_flag_cpu", "num_active_loras", "use_gdc", "use_tma", "add_inputs"})
"""Arguments that a launcher may lack."""

UNPIPELINED_WHERE_RAGGED = frozenset({"31f0f3846633393c25d36c5b6fdd8513051d2318e3b75c2a53ee837b87333f17"})
"""SHA-256 of the ``kernel_utils.py`` of vLLM 0.33.0. If the tiles do not cover k, its product loop compiles to one
binary for all ``num_stages`` (``tests/kernels/test_vllm_offline.py``). Nothing is claimed of any other text."""


class TargetPlatform:
    """Stands in for vLLM's platform. It answers for the GPU that is compiled for, which may be absent.

    It raises AttributeError for anything it does not know, so that it never answers for the wrong GPU.

    Attributes:
        gpu: the GPU, if more than its capability is known. Otherwise Triton is asked when needed.
    """

    capability: tuple[int, int] = (0, 0)
    gpu: GpuInfo | None = None

    @property
    def backend(self) -> str:
        """The backend of the GPU. If only a compute capability is known, it is CUDA's."""
        return self.gpu.backend if self.gpu is not None else DEFAULT_BACKEND

    def is_cuda(self) -> bool:
        """Say whether CUDA drives the GPU."""
        return self.backend == "cuda"

    def is_cuda_alike(self) -> bool:
        """Say whether torch calls the GPU ``cuda``."""
        return self.is_cuda() or self.is_rocm()

    def is_rocm(self) -> bool:
        """Say whether ROCm drives the GPU."""
        return self.backend == "hip"

    def is_xpu(self) -> bool:
        """Say whether the GPU is Intel's."""
        return self.backend == "xpu"

    def num_compute_units(self, device_id: int | None = 0) -> int:
        """Return the number of multiprocessors."""
        return self.gpu.sm_count if self.gpu is not None else _of_driver("sm_count", "multiprocessor_count")

    def max_shared_memory_bytes(self, device_id: int | None = 0) -> int:
        """Return the most shared memory that a block may use. In vLLM this is a function, not a platform method."""
        return (
            self.gpu.shared_memory_bytes
            if self.gpu is not None
            else _of_driver("shared_memory_bytes", "max_shared_mem")
        )

    def is_device_capability(self, capability: int | tuple[int, int], device_id: int = 0) -> bool:
        """Say whether the GPU has exactly this compute capability, 90 or (9, 0)."""
        return self.capability == _pair(capability)

    def has_device_capability(self, capability: int | tuple[int, int], device_id: int = 0) -> bool:
        """Say whether the GPU has this compute capability or a later one."""
        return self.capability >= _pair(capability)


class Launcher:
    """Finds out what vLLM launches for one kernel. Safe to use from several threads.

    Args:
        kernel: name of the kernel.
        given: names of the arguments that ``capture`` will pass to the launcher.
        looks_up: whether the launcher looks up its config. If not, it gets the config as arguments.

    Raises:
        VllmError: the installed vLLM lacks something, or wants arguments that are not known here.
    """

    def __init__(self, kernel: str, given: frozenset[str], *, looks_up: bool = True) -> None:
        module_name, name = LAUNCHERS[kernel]
        module = import_module(module_name)
        self._module, self._name = module_name, name
        self._original = attribute(module, name)
        self._lookup_names: tuple[str, ...] = ()
        if looks_up:
            lookup = attribute(module, LOOKUP)
            self._lookup_names = tuple(inspect.signature(inspect.unwrap(lookup)).parameters)
        self._platform = TargetPlatform()
        self._config = _ReadConfig({})
        self._asked: list[dict[str, Any]] = []
        self._calls: list[CapturedCall] = []
        self._lock = threading.Lock()
        replacements = {
            LOOKUP: self._look_up,
            "current_platform": self._platform,
            "async_tensor_h2d": _to_device,
            "get_max_shared_memory_bytes": self._platform.max_shared_memory_bytes,
        }
        self._private = PrivateCopy(replacements, lambda launched: Recorder(launched, self._note))
        try:
            self._function = self._private.function(self._original)
        except TypeError as error:
            raise self._refusal(str(error)) from error
        self._accepted = given & self._check_parameters(given)
        texts = {name: file.read_bytes() for name, file in _source_files(inspect.unwrap(self._original)).items()}
        self.digest = hashlib.sha256(b"".join(texts[name] for name in sorted(texts))).hexdigest()[:10]
        product = hashlib.sha256(texts.get(f"{KERNELS_PACKAGE}.kernel_utils", b"")).hexdigest()
        self.unpipelined_where_ragged = product in UNPIPELINED_WHERE_RAGGED

    def capture(
        self,
        arguments: Mapping[str, Any],
        config: Config,
        capability: tuple[int, int],
        key: Mapping[str, Any] | None,
        gpu: GpuInfo | None = None,
    ) -> CapturedCall:
        """Run the launcher and return what it would have launched.

        Args:
            arguments: the engine's arguments by name, with tensors on any device, including the meta device.
            config: the config that the launcher's lookup returns.
            capability: compute capability of the GPU, which decides some options.
            key: the key under which the launcher must look up the config, by the lookup's parameters; None for no
                lookup.
            gpu: the whole GPU, if it is not the one that Triton compiles for in this process.

        Raises:
            VllmError: the launcher does anything else than look up one config and launch one kernel.
        """
        passed = {name: value for name, value in arguments.items() if name in self._accepted}
        with self._lock:
            self._private.forget()
            self._asked.clear()
            self._calls.clear()
            self._config, self._platform.capability, self._platform.gpu = _ReadConfig(config), capability, gpu
            try:
                self._function(**passed)
            except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise self._refusal(f"it fails with {type(error).__name__}: {one_line(error)}") from error
            return self._checked(key)

    def whole(self, arguments: Mapping[str, Any]) -> Callable[[], None]:
        """Return a function that runs vLLM's own launcher unchanged: it looks up a config and launches the kernel."""
        return partial(self._original, **{name: arguments[name] for name in self._accepted})

    def _checked(self, key: Mapping[str, Any] | None) -> CapturedCall:
        if len(self._calls) != 1:
            hint = "; unset VLLM_BATCH_INVARIANT, which makes vLLM ignore tuned files" if len(self._calls) > 1 else ""
            raise self._refusal(f"it launches {len(self._calls)} kernels instead of one{hint}")
        found = [{name: asked.get(name) for name in key or ()} for asked in self._asked]
        if key is None and found:
            raise self._refusal(f"it looks its config up under {found}, although it was given one")
        if key is not None and found != [dict(key)]:
            raise self._refusal(f"it looks its config up under {found}, instead of once under {dict(key)}")
        return self._calls[0]

    def _check_parameters(self, given: frozenset[str]) -> frozenset[str]:
        parameters = inspect.signature(self._function).parameters
        required = {name for name, p in parameters.items() if p.default is inspect.Parameter.empty}
        unknown = sorted(required - given)
        missing = sorted(given - parameters.keys() - NOT_IN_ALL_VERSIONS)
        if unknown or missing:
            wants = f"needs {', '.join(unknown)}" if unknown else f"has no parameter {', '.join(missing)}"
            raise self._refusal(f"it {wants}")
        return frozenset(parameters)

    def _look_up(self, *arguments: Any, **named: Any) -> dict[str, int]:
        self._asked.append({**dict(zip(self._lookup_names, arguments, strict=False)), **named})
        return self._config

    def _note(self, kernel: Any, grid: Any, *arguments: Any, **options: Any) -> None:
        programs = tuple(map(int, grid(options) if callable(grid) else grid))
        self._calls.append(CapturedCall(kernel, programs, arguments, options, dict(self._config.read)))

    def _refusal(self, problem: str) -> VllmError:
        return refusal(f"{self._module}.{self._name} cannot be used: {problem}")


class _ReadConfig(dict[str, int]):
    """A config that notes which of its values are read."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.read: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        value = self.read[name] = super().__getitem__(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]


class Recorder:
    """Stands in for a kernel and passes on the arguments of its launch."""

    def __init__(self, kernel: Any, note: Callable[..., None]) -> None:
        self._kernel = kernel
        self._note = note

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        if isinstance(self._kernel, Autotuner):
            raise TypeError("its kernel chooses its config itself")
        if isinstance(self._kernel, Heuristics):
            return partial(self._note_with_heuristics, grid)
        return partial(self._note, self._kernel, grid)

    def _note_with_heuristics(self, grid: Any, *arguments: Any, **options: Any) -> None:
        """Do as Triton with heuristics: compute parameters that follow from others, then launch the kernel below."""
        kernel = self._kernel
        while isinstance(kernel, Heuristics):
            for name, value in kernel.values.items():
                if name in CONFIG_PARAMETERS:
                    raise TypeError("its kernel chooses its config itself")
                options[name] = value({**dict(zip(kernel.arg_names, arguments, strict=False)), **options})
            kernel = kernel.fn
        self._note(kernel, grid, *arguments, **options)


def _pair(capability: int | tuple[int, int]) -> tuple[int, int]:
    return divmod(capability, 10) if isinstance(capability, int) else (capability[0], capability[1])


def _of_driver(told: str, asked: str) -> int:
    """Return a figure of the GPU that Triton compiles for: the one that an offline driver was told, or the one at hand.

    Raises:
        AttributeError: the driver knows only a compute capability.
    """
    driver = triton.runtime.driver.active
    gpu = getattr(driver, "gpu", None)
    if gpu is not None:
        return int(getattr(gpu, told))
    if not hasattr(driver, "utils"):
        raise AttributeError("only the compute capability of the GPU to compile for is known")
    return int(driver.utils.get_device_properties(driver.get_current_device())[asked])


def _to_device(data: Any, device: torch.device | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Stands in for vLLM's copy through pinned memory, which needs a CUDA context."""
    return torch.tensor(data, dtype=dtype).to(device)


def import_module(module: str) -> Any:
    """Import a module of the installed vLLM. Raises VllmError if that fails."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise refusal(f"{module} cannot be imported: {one_line(error)}") from error


def attribute(module: Any, name: str) -> Any:
    """Return an attribute of a module of the installed vLLM. Raises VllmError if it is missing."""
    try:
        return getattr(module, name)
    except AttributeError:
        raise refusal(f"{module.__name__} has no {name}") from None


def _source_files(launcher: Any) -> dict[str, Path]:
    """Return the files of the launcher's module and of the kernel modules that it imports from, by module."""
    names = {launcher.__module__, *(getattr(value, "__module__", None) for value in launcher.__globals__.values())}
    modules = [name for name in names if isinstance(name, str) and name.startswith(KERNELS_PACKAGE)]
    return {name: Path(inspect.getfile(importlib.import_module(name))) for name in modules}
