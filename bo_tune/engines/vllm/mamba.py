"""vLLM's files for Mamba-2 layers' decode steps: one per shape of a head's state, element type of states, and GPU."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.engines.base import Address, Engine, Entries, Keys, WrittenConfig, by_number
from bo_tune.engines.json_text import json_bytes, kind_of, parse_strictly
from bo_tune.engines.models.mamba import MAMBA, held_mamba
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.mamba_files import NAMES, PATTERN, MambaFile, config_fault, configs_in, file_name
from bo_tune.engines.vllm.table_format import decimal_key_fault
from bo_tune.errors import TableError
from bo_tune.kernels.mamba.step import KERNEL, MambaStep


class VllmMamba(Engine):
    """vLLM's files for Mamba. Parsing drops values that the engine does not read."""

    name: ClassVar[str] = "vLLM, Mamba"
    kernels: ClassVar[Collection[str]] = (KERNEL,)
    patterns: ClassVar[Sequence[str]] = (PATTERN,)

    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        step = MambaStep.of(problem)
        return Address(file_name(step.headdim, step.dstate, step.file_dtype, gpu.name), (str(step.key),))

    def gpu_in(self, file_name: str) -> str | None:
        file = MambaFile.of(file_name)
        return file.device if file else None

    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        content = parse_strictly(text, path)
        if MambaFile.of(path.name) is None:
            raise TableError(f"{path}: expected the name of a file that vLLM loads")
        if not isinstance(content, dict):
            raise TableError(
                f"{path}: expected an object with numbers of sequences times heads as keys, got {kind_of(content)}"
            )
        found: dict[Keys, WrittenConfig] = {}
        for key, config in configs_in(content).items():
            fault = decimal_key_fault("number of pairs", key) or config_fault(config)
            if fault:
                raise TableError(f"{path}: {key}: {fault}")
            found[(key,)] = {name: config[name] for name in NAMES}
        return found

    def render(self, entries: Entries) -> bytes:
        return json_bytes({keys[0]: dict(entries[keys]) for keys in sorted(entries, key=by_number)})

    def as_written(self, config: WrittenConfig) -> WrittenConfig:
        return {name: config[name] for name in NAMES if name in config}

    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        """Return the problems of a model's Mamba-2 layers; none if it has none. They do not depend on adapters."""
        if model.shape.mamba is None or not (kernels is None or KERNEL in kernels):
            return {}
        return {step.problem: (MAMBA,) for step in held_mamba(model)}
