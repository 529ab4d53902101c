"""vLLM's files for the base model's experts: one for each number of experts, intermediate size and GPU."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.engines.base import Address, Engine, Entries, Keys, WrittenConfig, by_number
from bo_tune.engines.json_text import json_bytes, kind_of, parse_strictly
from bo_tune.engines.models.architectures.moe import EXPERTS
from bo_tune.engines.models.experts import held_experts
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.experts_files import BLOCKS, PATTERN, ExpertsFile, configs_in, file_name
from bo_tune.engines.vllm.table_format import decimal_key_fault
from bo_tune.errors import TableError
from bo_tune.kernels.experts.step import ENGINE_NAMES, KERNEL, ExpertsStep


class VllmExperts(Engine):
    """See the module. A ``triton_version`` is not kept: each entry's sidecar says what it was measured with."""

    name: ClassVar[str] = "vLLM, the base model's experts"
    kernels: ClassVar[Collection[str]] = (KERNEL,)
    patterns: ClassVar[Sequence[str]] = (PATTERN,)

    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        step = ExpertsStep.of(problem)
        return Address(file_name(step.experts.local, step.n, gpu.name), (str(step.m),))

    def gpu_in(self, file_name: str) -> str | None:
        file = ExpertsFile.of(file_name)
        return file.device if file else None

    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        file, content = ExpertsFile.of(path.name), parse_strictly(text, path)
        if file is None:
            raise TableError(f"{path}: not the name of a file that vLLM loads")
        if not isinstance(content, dict):
            raise TableError(f"{path}: expected an object of numbers of tokens, got {kind_of(content)}")
        found: dict[Keys, WrittenConfig] = {}
        for key, config in configs_in(content).items():
            fault = decimal_key_fault("number of tokens", key) or file.fault(config)
            if fault:
                raise TableError(f"{path}: {key}: {fault}")
            found[(key,)] = config
        return found

    def render(self, entries: Entries) -> bytes:
        return json_bytes({keys[0]: dict(entries[keys]) for keys in sorted(entries, key=by_number)})

    def as_written(self, config: WrittenConfig) -> WrittenConfig:
        order = list(dict.fromkeys((*BLOCKS, *ENGINE_NAMES)))
        names = sorted(config, key=lambda name: (order.index(name) if name in order else len(order), name))
        return {name: config[name] for name in names}

    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        """See the base class. Adapters have no part in it: the engine asks whether experts take any or not.

        There are none where the model has no experts, or its checkpoint holds them in fewer than 16 bits: the engine
        asks other files for those, or runs other kernels.
        """
        moe = model.shape.moe
        if moe is None or model.shape.quantization is not None or not (kernels is None or KERNEL in kernels):
            return {}
        experts, n = held_experts(
            model.shape, model.tensor_parallel, expert_parallel=model.expert_parallel, fully_sharded=model.fully_sharded
        )
        dtype = model.dtype or model.shape.dtype
        steps = [ExpertsStep(m, experts, moe.hidden, n, gated=moe.gated, dtype=dtype) for m in model.ms]
        return {step.problem: (EXPERTS,) for step in steps}
