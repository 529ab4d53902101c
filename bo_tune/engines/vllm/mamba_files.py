"""The files in which vLLM looks up configs of Mamba-2 layers' decode steps: their names, and what may stand in them.

``headdim=64,dstate=128,device_name=NVIDIA_H200,cache_dtype=float32.json`` holds a config for each of some numbers of
pairs of a sequence and a head, of which the nearest to a step's counts. Facts of vLLM 0.33.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import device_file_name
from bo_tune.engines.provenance import PROVENANCE_SUFFIX
from bo_tune.engines.vllm.launchable import in_small_letters, numbers_fault
from bo_tune.files import shown

PATTERN = "headdim=*,dstate=*,device_name=*.json"
"""What their names look like, for people."""

_NAME = re.compile(r"headdim=\d+,dstate=\d+,device_name=(?P<device>[^,]+),cache_dtype=(?P<dtype>[^,]+)\.json")

DTYPES = ("float16", "float32")
"""What files are asked for by."""

NAMES = ("BLOCK_SIZE_M", "num_warps")
"""What the engine reads of a config: all of it, and nothing else."""


@dataclass(frozen=True, slots=True)
class MambaFile:
    """What the name of such a file says.

    Attributes:
        device: the GPU, as it is written there.
        dtype: element type of the states.
    """

    device: str
    dtype: str

    @classmethod
    def of(cls, name: str) -> "MambaFile | None":
        """Take a name apart; None for one that the engine asks for on no GPU."""
        match = None if name.endswith(PROVENANCE_SUFFIX) else _NAME.fullmatch(name)
        return cls(match["device"], match["dtype"]) if match else None


def file_name(headdim: int, dstate: int, dtype: str, gpu: str) -> str:
    """Return the name of a file.

    Args:
        dtype: one of ``DTYPES``.
        gpu: as ``torch.cuda.get_device_name`` gives it.
    """
    return f"headdim={headdim},dstate={dstate},device_name={device_file_name(gpu)},cache_dtype={dtype}.json"


def config_fault(config: object) -> str | None:
    """Return why the kernel cannot be launched with a config, or None."""
    if not isinstance(config, dict) or not set(NAMES) <= config.keys():
        return f"expected {' and '.join(NAMES)}, got {shown(config)}"
    return numbers_fault(in_small_letters({name: config[name] for name in NAMES}))


def configs_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of numbers of pairs, by its keys as they stand there; the engine passes over the rest."""
    return {key: value for key, value in content.items() if key.isdigit()}


def key_of(keys: Mapping[str, Any], pairs: int) -> str | None:
    """Return the key under which vLLM looks a number of pairs up: the nearest, of equally near ones the first.

    Args:
        keys: what ``configs_in`` returned.

    Returns:
        None where there is none: the engine takes its default.
    """
    numbers: dict[int, str] = {}
    for key in keys:
        numbers[int(key)] = key  # of keys that are one number the last one's config counts, in the place of the first
    return numbers[min(numbers, key=lambda number: abs(number - pairs))] if numbers else None
