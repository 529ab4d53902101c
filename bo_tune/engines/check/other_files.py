"""Other tuned files that an engine reads from the same folder: those of the base model's experts, and of Mamba.

Unlike LoRA files, their names keep the hyphens of the GPU's name. Facts of vLLM 0.33.0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import device_file_name, lora_file_name
from bo_tune.engines.check.findings import Fault, place_of
from bo_tune.engines.check.lora_files import THE_STOP, Unreadable
from bo_tune.engines.provenance import PROVENANCE_SUFFIX
from bo_tune.engines.vllm import mamba_files
from bo_tune.engines.vllm.experts_files import DTYPES, REFERENCE, ExpertsFile, device_of
from bo_tune.engines.vllm.lookup import first_odd_key
from bo_tune.engines.vllm.mamba_files import MambaFile

_EXPERTS_START, _MAMBA_START = "E=", "headdim="
"""How the names of such files begin."""

_OTHER_KERNEL = ",backend="
"""Part of the names of experts' files for kernels of other vendors."""


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file in the folder that is not a LoRA file.

    Attributes:
        device: the part of its name that names the GPU; None if an engine never asks for such a name.
        dtype: the part that names an element type; None if there is none.
    """

    name: str
    device: str | None
    dtype: str | None

    @classmethod
    def of(cls, name: str) -> "OtherFile | None":
        """Parse a name; None if it is not meant as such a file, or belongs to another kernel."""
        if _OTHER_KERNEL in name or name.endswith(PROVENANCE_SUFFIX):
            return None
        if not name.endswith(".json") or not name.startswith((_EXPERTS_START, _MAMBA_START)):
            return None
        if name.startswith(_EXPERTS_START):
            file = ExpertsFile.of(name)
            return cls(name, file.device, file.dtype) if file else cls(name, None, None)
        mamba = MambaFile.of(name)
        return cls(name, mamba.device, mamba.dtype) if mamba else cls(name, None, None)

    @property
    def is_experts(self) -> bool:
        """Whether the file is for experts rather than Mamba."""
        return self.name.startswith(_EXPERTS_START)

    def is_of(self, gpu_file_name: str) -> bool:
        """Say whether the file is meant for a GPU, given its name in LoRA files, even if it is misspelt."""
        if self.device is None or lora_file_name(self.device) == gpu_file_name:
            return True
        # The names of a family of GPUs are the same in both kinds of files, except for hyphens.
        return self.is_experts and self.device == device_of(gpu_file_name)

    def faults(self, content: object, gpu: str | None) -> Iterator[Fault]:
        """Yield the faults of the file.

        Args:
            content: the parsed JSON, or ``Unreadable``.
            gpu: the GPU's name as given by ``torch.cuda.get_device_name``; None if only LoRA files name it.
        """
        misnamed = self._misnamed(gpu)
        if misnamed:
            yield Fault(self.name, "", f"the engine never reads this file: {misnamed}")
        elif isinstance(content, Unreadable):
            yield Fault(self.name, "", content.reason)
        elif not isinstance(content, dict):
            experts = f"expected an object with numbers of tokens as keys: {THE_STOP}"
            yield Fault(
                self.name, "", experts if self.is_experts else "the engine never reads this file: expected an object"
            )
        else:
            yield from self._faults_within(content)

    def _faults_within(self, content: Mapping[str, Any]) -> Iterator[Fault]:
        read = (
            [key for key in content if key != REFERENCE] if self.is_experts else list(mamba_files.configs_in(content))
        )
        if not read:
            default = "configs" if self.is_experts else "config"
            yield Fault(
                self.name, "", f"the file is empty: the engine uses its default {default}, not the shipped ones"
            )
        for key in read:
            value = content[key]
            reason = self._experts_fault(key, value) if self.is_experts else mamba_files.config_fault(value)
            if reason:
                yield Fault(self.name, place_of((key,)), f"{reason}: {THE_STOP}")

    def _misnamed(self, gpu: str | None) -> str | None:
        if self.device is None:
            return "it looks for no file of such a name"
        asked = DTYPES if self.is_experts else mamba_files.DTYPES
        if self.dtype is not None and self.dtype not in asked:
            kind = "dtype" if self.is_experts else "cache_dtype"
            return f"it never looks for {kind}={self.dtype}, only for {', '.join(asked)}"
        if gpu is None:
            return None
        wanted = device_of(gpu) if self.is_experts else device_file_name(gpu)
        return None if self.device == wanted else f"on this GPU it looks for device_name={wanted}"

    def _experts_fault(self, key: str, value: Any) -> str | None:
        if first_odd_key((key,)) is not None:
            return "the key is not a number of tokens"
        return ExpertsFile(self.device or "", self.dtype).fault(value)
