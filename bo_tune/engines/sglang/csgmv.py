"""SGLang's files for its chunked LoRA kernels: one for each shape of a layer's adapters and GPU."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bo_tune.core.choices import EngineChoice
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.engines.base import Address, Engine, Entries, Keys, WrittenConfig, by_number
from bo_tune.engines.json_text import json_bytes, kind_of, parse_strictly
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.sglang.csgmv_files import PATTERN, REGISTERS, CsgmvFile, file_name, subfolder
from bo_tune.engines.sglang.layers import csgmv_steps
from bo_tune.engines.vllm.table_format import decimal_key_fault
from bo_tune.errors import TableError
from bo_tune.kernels.csgmv.spec import NO_LIMIT
from bo_tune.kernels.csgmv.step import EXPAND, KERNELS, CsgmvStep


class SglangLora(Engine):
    """SGLang's files. Parsing drops values that the engine does not read, and fills in Triton's defaults."""

    name: ClassVar[str] = "SGLang"
    serves: ClassVar[EngineChoice] = EngineChoice.SGLANG
    kernels: ClassVar[Collection[str]] = KERNELS
    patterns: ClassVar[Sequence[str]] = (PATTERN,)

    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        step = CsgmvStep.of(problem)
        return Address(file_name(step, gpu.name), (str(step.chunk),))

    def gpu_in(self, file_name: str) -> str | None:
        file = CsgmvFile.of(file_name)
        return file.device if file else None

    def subfolder(self, triton: str | None) -> Path:
        return subfolder(triton)

    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        file, content = CsgmvFile.of(path.name), parse_strictly(text, path)
        if file is None:
            raise TableError(f"{path}: expected the name of a file that SGLang loads")
        if not isinstance(content, dict) or not content:
            raise TableError(f"{path}: expected an object with chunk sizes as keys, got {kind_of(content)}")
        found: dict[Keys, WrittenConfig] = {}
        for key, config in content.items():
            fault = decimal_key_fault("chunk size", key) or file.fault(config)
            if fault:
                raise TableError(f"{path}: {key}: {fault}")
            found[(key,)] = file.whole(config)
        return found

    def render(self, entries: Entries) -> bytes:
        def kept(config: WrittenConfig) -> dict[str, int | None]:
            return {name: value for name, value in config.items() if (name, value) != (REGISTERS, NO_LIMIT)}

        return json_bytes({keys[0]: kept(entries[keys]) for keys in sorted(entries, key=by_number)})

    def as_written(self, config: WrittenConfig) -> WrittenConfig:
        return {name: config[name] for name in CsgmvFile(EXPAND, "").names if name in config}

    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        """Return one problem for each chunk size. Files do not distinguish more numbers of tokens."""
        found: dict[Problem, tuple[str, ...]] = {}
        for name, step in csgmv_steps(model):
            if kernels is None or step.kernel in kernels:
                found[step.problem] = (*found.get(step.problem, ()), name)
        return found
