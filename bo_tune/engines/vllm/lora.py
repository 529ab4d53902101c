"""vLLM's LoRA kernels, dense and of experts: one nested JSON per GPU and kernel, and for expand per add_inputs."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bo_tune.core.problem import GpuInfo, Problem, lora
from bo_tune.core.surroundings import MOE_KERNELS
from bo_tune.engines.base import Address, Completion, Engine, Entries, Keys, WrittenConfig
from bo_tune.engines.json_text import json_bytes, parse_strictly, read_bytes
from bo_tune.engines.models.problems import DENSE_KERNELS
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.file_names import FILE_STEMS, FOLDER_VARIABLE, split_file_name, table_file_name
from bo_tune.engines.vllm.table_format import flatten, in_order, missing_lookups, nested
from bo_tune.engines.vllm.untuned import untuned_entries
from bo_tune.errors import TableError
from bo_tune.kernels.registry import engine_spec
from bo_tune.kernels.vllm.untuned import knows_shipped_files


class VllmLora(Engine):
    """vLLM's files of LoRA configs."""

    name: ClassVar[str] = "vLLM"
    kernels: ClassVar[Collection[str]] = (*DENSE_KERNELS, *MOE_KERNELS)
    patterns: ClassVar[Sequence[str]] = ("*_SHRINK.json", "*_EXPAND_TRUE.json")
    folder_variable = FOLDER_VARIABLE

    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        spec, asked = engine_spec(problem.kernel), lora(problem)
        return Address(table_file_name(gpu.file_name, spec.file_stem(asked)), spec.table_key(asked))

    def gpu_in(self, file_name: str) -> str | None:
        parts = split_file_name(file_name)
        return parts[0] if parts else None

    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        parts = split_file_name(path.name)
        if parts is None:
            raise TableError(f"{path}: expected the name of a file that vLLM loads")
        return flatten(parse_strictly(text, path), FILE_STEMS[parts[1]], path)

    def render(self, entries: Entries) -> bytes:
        return json_bytes(nested(entries))

    def as_written(self, config: WrittenConfig) -> WrittenConfig:
        return in_order(config)

    def missing(self, entries: Entries) -> list[str]:
        return missing_lookups(entries)

    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        wanted = None if kernels is None else [kernel for kernel in kernels if kernel in self.kernels]
        return dict(model.problems_by_layer(wanted).items())

    def _read(self, path: Path) -> Entries:
        return self.parse(read_bytes(path), path)

    def completion(self, asked: Collection[Problem], tuned: Collection[str], gpu: GpuInfo, folder: Path) -> Completion:
        entries = untuned_entries(asked, tuned, gpu, folder, self._read)
        if not entries:
            return Completion()
        known = "" if knows_shipped_files() else ", as far as bo_tune knows without vLLM's own files"
        note = (
            "the experts' adapters were not tuned: their files hold the configs that an engine without this "
            f"folder runs{known}"
        )
        return Completion(entries, (note,))
