"""The installed vLLM's shrink and expand. A kernel source: its ``operation`` is that of ``kernels.operations``."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import torch
import triton

from bo_tune.kernels.lora.operation import AnyInputs, LoraInputs, LoraOperation, PreparedLaunch
from bo_tune.kernels.lora.tokens import TokenGroups
from bo_tune.kernels.lora_expand.inputs import ExpandInputs, ExpandOperation, adds_inputs
from bo_tune.kernels.lora_shrink.inputs import ShrinkInputs, ShrinkOperation
from bo_tune.kernels.operation import Operation
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.vllm.installed import VllmError, refusal, version
from bo_tune.kernels.vllm.kernel_call import KernelCall
from bo_tune.kernels.vllm.launcher import Launcher
from bo_tune.problem import GpuInfo, Problem
from bo_tune.space import Config, ConfigKey, config_key

META = torch.device("meta")


class VllmOperation(LoraOperation[AnyInputs]):
    """One of vLLM's kernels as vLLM launches it. The subclasses know the launcher's arguments.

    Raises:
        VllmError: the installed vLLM does not have the kernel in a form that is known here.
    """

    def __init__(self) -> None:
        self._launcher = Launcher(self.name, frozenset(self._stand_in_arguments(Problem(self.name, 1, 1, 1, 1, 1))))
        self._cached_arguments = lru_cache(maxsize=16)(self._stand_in_arguments)
        self._cached_facts = lru_cache(maxsize=2**16)(self._facts)
        self._keys: dict[Hashable, Hashable] = {}

    @cached_property
    def source(self) -> str:
        """``vllm`` and its version, as in recordings; a digest of its files where it does not know its version."""
        return f"vllm {version() or self._launcher.digest}"

    @abstractmethod
    def arguments(self, inputs: AnyInputs) -> dict[str, Any]:
        """What the engine passes to the launcher, by name."""

    @abstractmethod
    def lookup(self, problem: Problem) -> dict[str, Any]:
        """What the launcher must look its config up under for the tuned file's entry to be found."""

    def capture(self, inputs: AnyInputs, config: Config, capability: tuple[int, int]) -> KernelCall:
        """Return what vLLM launches for these inputs on a GPU of this compute capability.

        Raises:
            VllmError: vLLM's launcher does something that is not known here.
        """
        return self._capture(self.arguments(inputs), inputs.problem, config, capability)

    def capture_without_inputs(self, problem: Problem, config: Config, capability: tuple[int, int]) -> KernelCall:
        """As ``capture``, with tensors on the meta device, which hold nothing and need no GPU."""
        return self._capture(self._cached_arguments(problem), problem, config, capability)

    def first_launch(self, inputs: AnyInputs, config: Config) -> PreparedLaunch | None:
        return self.capture(inputs, config, target_capability()).launch()

    def warmup(self, problem: Problem, config: Config) -> Any:
        return self.capture_without_inputs(problem, config, target_capability()).warmup()

    def effective_config(self, problem: Problem, config: Config, gpu: GpuInfo) -> dict[str, int]:
        return dict(self._cached_facts(problem, config_key(config), gpu.capability).effective)

    def compile_key(self, problem: Problem, config: Config, gpu: GpuInfo) -> Hashable:
        return self._cached_facts(problem, config_key(config), gpu.capability).compile_key

    def _facts(self, problem: Problem, config: ConfigKey, capability: tuple[int, int]) -> "_Facts":
        call = self.capture_without_inputs(problem, dict(config), capability)
        effective = call.config()
        if call.parameters.get("EVEN_K") is False and self._launcher.unpipelined_where_ragged:
            effective["num_stages"] = 1
        key = (capability, call.specialisation())
        # Thousands of a model's calls share a binary: their keys share memory.
        return _Facts(tuple(effective.items()), self._keys.setdefault(key, key))

    def _capture(
        self, arguments: Mapping[str, Any], problem: Problem, config: Config, capability: tuple[int, int]
    ) -> KernelCall:
        return self._launcher.capture(arguments, config, capability, self.lookup(problem))

    def _stand_in_arguments(self, problem: Problem) -> dict[str, Any]:
        tokens, slots = problem.m, problem.max_loras + 1
        sizes = (tokens, tokens, slots, slots + 1, slots)
        groups = TokenGroups(*(torch.empty(size, dtype=torch.int32, device=META) for size in sizes))
        return self.arguments(self.assemble(problem, groups, None, META))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What was learnt of a config by asking vLLM's launcher."""

    effective: ConfigKey
    compile_key: Hashable


class VllmShrink(ShrinkOperation, VllmOperation[ShrinkInputs]):
    """vLLM's shrink."""

    def arguments(self, inputs: ShrinkInputs) -> dict[str, Any]:
        weights = list(inputs.weights)
        return {**_common_arguments(inputs), "lora_a_weights": weights, "scaling": inputs.scale}

    def lookup(self, problem: Problem) -> dict[str, Any]:
        return {"op_type": "shrink", **_lookup_sizes(problem, hidden_size=problem.k, rank=problem.n)}


class VllmExpand(ExpandOperation, VllmOperation[ExpandInputs]):
    """vLLM's expand."""

    def arguments(self, inputs: ExpandInputs) -> dict[str, Any]:
        weights, adds = list(inputs.weights), adds_inputs(inputs.problem)
        return {**_common_arguments(inputs), "lora_b_weights": weights, "offset_start": 0, "add_inputs": adds}

    def lookup(self, problem: Problem) -> dict[str, Any]:
        sizes = _lookup_sizes(problem, hidden_size=problem.n, rank=problem.k)
        return {"op_type": "expand", **sizes, "add_inputs": adds_inputs(problem)}


def _common_arguments(inputs: LoraInputs) -> dict[str, Any]:
    problem, groups = inputs.problem, inputs.groups
    return {
        "inputs": inputs.x,
        "output_tensor": inputs.out,
        "token_lora_mapping": groups.assignment,
        "token_indices_sorted_by_lora_ids": groups.tokens,
        "num_tokens_per_lora": groups.rows,
        "lora_token_start_loc": groups.starts,
        "lora_ids": groups.adapters,
        "no_lora_flag_cpu": torch.tensor([False]),
        # As the engine does by default: surplus programs end at once.
        "num_active_loras": torch.tensor([problem.max_loras + 1], dtype=torch.int32),
    }


def _lookup_sizes(problem: Problem, *, hidden_size: int, rank: int) -> dict[str, int]:
    max_loras = int(kernel_spec(problem.kernel).table_key(problem)[0])
    sizes = {"max_loras": max_loras, "batch": problem.m, "num_slices": problem.num_slices}
    return {**sizes, "hidden_size": hidden_size, "rank": rank}


def target_capability() -> tuple[int, int]:
    """Compute capability of the GPU that Triton compiles for in this process."""
    return divmod(int(triton.runtime.driver.active.get_current_target().arch), 10)


_OPERATIONS: Mapping[str, type[VllmOperation[Any]]] = {kind.name: kind for kind in (VllmShrink, VllmExpand)}


@cache
def operation(name: str) -> Operation[Any]:
    """Return how vLLM's kernel of this name is compiled and launched.

    Raises:
        InputError: for an unknown name.
        VllmError: the installed vLLM does not have the kernel in a form that is known here.
    """
    kernel_spec(name)
    if name not in _OPERATIONS:
        raise refusal(f"its {name} cannot be tuned, only {', '.join(_OPERATIONS)}")
    return _OPERATIONS[name]()


# Imported now, where it can be: a full vLLM takes seconds to import, too long for a worker's first request, and
# processes forked from one that has imported this module have it already. What fails is said by ``operation``.
with suppress(VllmError):
    for _name in _OPERATIONS:
        operation(_name)
