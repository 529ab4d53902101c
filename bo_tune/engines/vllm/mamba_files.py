"""The files in which vLLM looks up configs of Mamba-2 layers' decode steps: their names and contents.

``headdim=64,dstate=128,device_name=NVIDIA_H200,cache_dtype=float32.json`` holds configs for some numbers of pairs of a
sequence and a head. A step takes the one of the nearest number. Facts of vLLM 0.33.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import device_file_name
from bo_tune.engines.provenance import PROVENANCE_SUFFIX
from bo_tune.engines.vllm.launchable import numbers_fault, with_lower_case_names
from bo_tune.files import shown

PATTERN = "headdim=*,dstate=*,device_name=*.json"
"""Pattern of their names, for people."""

_NAME = re.compile(r"headdim=\d+,dstate=\d+,device_name=(?P<device>[^,]+),cache_dtype=(?P<dtype>[^,]+)\.json")

DTYPES = ("float16", "float32")
"""Element types in the names of files."""

NAMES = ("BLOCK_SIZE_M", "num_warps")
"""Parameters that the engine reads. It needs all of them, and reads no others."""


@dataclass(frozen=True, slots=True)
class MambaFile:
    """The parts of such a file's name.

    Attributes:
        device: the GPU, as written there.
        dtype: element type of the states.
    """

    device: str
    dtype: str

    @classmethod
    def of(cls, name: str) -> "MambaFile | None":
        """Parse a name; None if the engine does not ask for it on any GPU."""
        match = None if name.endswith(PROVENANCE_SUFFIX) else _NAME.fullmatch(name)
        return cls(match["device"], match["dtype"]) if match else None


def file_name(headdim: int, dstate: int, dtype: str, gpu: str) -> str:
    """Return the name of a file.

    Args:
        dtype: one of ``DTYPES``.
        gpu: name as given by ``torch.cuda.get_device_name``.
    """
    return f"headdim={headdim},dstate={dstate},device_name={device_file_name(gpu)},cache_dtype={dtype}.json"


def config_fault(config: object) -> str | None:
    """Return why the kernel cannot be launched with a config, or None."""
    if not isinstance(config, dict) or not set(NAMES) <= config.keys():
        return f"expected {' and '.join(NAMES)}, got {shown(config)}"
    return numbers_fault(with_lower_case_names({name: config[name] for name in NAMES}))


def configs_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configs of a file, by its keys as they stand there. The engine ignores other keys."""
    return {key: value for key, value in content.items() if key.isdigit()}


def key_of(keys: Mapping[str, Any], pairs: int) -> str | None:
    """Return the key under which vLLM looks up a number of pairs: the nearest, or the first of several.

    Args:
        keys: the result of ``configs_in``.

    Returns:
        None if there are no keys, for which the engine takes its default.
    """
    numbers: dict[int, str] = {}
    for key in keys:
        numbers[int(key)] = key  # if several keys are one number, the last config counts, in the first's place
    return numbers[min(numbers, key=lambda number: abs(number - pairs))] if numbers else None
