"""One of vLLM's kernels as an operation: the launch of vLLM's own launcher, captured."""

from abc import abstractmethod
from collections.abc import Callable, Hashable
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import triton

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.kernels.lora.operation import AnyInputs, LoraOperation
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm.installed import version
from bo_tune.kernels.vllm.kernel_call import CapturedCall
from bo_tune.kernels.vllm.launcher import Launcher

LEAST_CAPABILITY = (8, 0)
"""A compute capability with which to learn the launcher's arguments."""


class VllmOperation(LoraOperation[AnyInputs]):
    """One of vLLM's kernels as vLLM launches it. The subclasses know the launcher's arguments.

    Raises:
        VllmError: the installed vLLM does not have the kernel in a form that is known here.
    """

    path: ClassVar[str] = ""
    """Names one of several ways to compute the same, if there are several."""

    def __init__(self) -> None:
        least = self.least_problem
        given = self.arguments(self.stand_ins(least), kernel_spec(self.name).default_config(least), LEAST_CAPABILITY)
        self._launcher = Launcher(self.name, frozenset(given), looks_up=self.lookup(least) is not None)
        self._cached_facts = lru_cache(maxsize=2**16)(self._facts)
        self._keys: dict[Hashable, Hashable] = {}

    @cached_property
    def source(self) -> str:
        """``vllm`` and its version, as in recordings, or a digest of its files if the version is unknown."""
        return f"vllm {version() or self._launcher.digest}{self.path}"

    @property
    def least_problem(self) -> LoraProblem:
        """A problem with which to learn the launcher's arguments."""
        return LoraProblem(self.name, 1, 1, 1, 1, 1)

    @abstractmethod
    def arguments(self, inputs: AnyInputs, config: Config, capability: tuple[int, int]) -> dict[str, Any]:
        """Return the arguments that the engine passes to the launcher on a GPU of a compute capability, by name.

        They include the config only if the launcher does not look it up.
        """

    @abstractmethod
    def lookup(self, problem: LoraProblem) -> dict[str, Any] | None:
        """Return the key under which the launcher must look up its config, as in tuned files; None for no lookup."""

    def capture(
        self, inputs: AnyInputs, config: Config, capability: tuple[int, int], gpu: GpuInfo | None = None
    ) -> CapturedCall:
        """Return what vLLM launches for these inputs on a GPU of this compute capability.

        Args:
            gpu: the GPU, if it is not the one that Triton compiles for in this process.

        Raises:
            VllmError: vLLM's launcher does something that is not known here.
        """
        arguments, key = self.arguments(inputs, config, capability), self.lookup(inputs.problem)
        return self._launcher.capture(arguments, config, capability, key, gpu)

    def capture_without_inputs(
        self, problem: LoraProblem, config: Config, capability: tuple[int, int], gpu: GpuInfo | None = None
    ) -> CapturedCall:
        """Do as ``capture``, with tensors on the meta device, which hold nothing and need no GPU."""
        return self.capture(self.stand_ins(problem), config, capability, gpu)

    def engine_launch(self, inputs: AnyInputs) -> Callable[[], None] | None:
        default = kernel_spec(self.name).default_config(inputs.problem)
        return self._launcher.whole(self.arguments(inputs, default, target_capability()))

    def call(self, inputs: AnyInputs, config: Config, gpu: GpuInfo | None = None) -> CapturedCall:
        return self.capture(inputs, config, gpu.capability if gpu else target_capability(), gpu)

    def effective_config(self, problem: LoraProblem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(self._cached_facts(problem, config_key(config), gpu)[0])

    def compile_key(self, problem: LoraProblem, config: Config, gpu: GpuInfo) -> Hashable:
        return self._cached_facts(problem, config_key(config), gpu)[1]

    def _facts(self, problem: LoraProblem, config: ConfigKey, gpu: GpuInfo) -> tuple[ConfigKey, Hashable]:
        """Ask vLLM's launcher for the effective config and the compile key."""
        call = self.capture_without_inputs(problem, dict(config), gpu.capability, gpu)
        effective = call.config()
        if call.parameters.get("EVEN_K") is False and self._launcher.unpipelined_where_ragged:
            effective["num_stages"] = 1
        key = (gpu.capability, call.specialisation())
        # Thousands of a model's calls share a binary. Let their keys share memory.
        return tuple(effective.items()), self._keys.setdefault(key, key)


def target_capability() -> tuple[int, int]:
    """Return the compute capability of the GPU that Triton compiles for in this process."""
    return divmod(int(triton.runtime.driver.active.get_current_target().arch), 10)
