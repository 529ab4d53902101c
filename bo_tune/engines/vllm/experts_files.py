"""The files in which vLLM looks up configs of the base model's experts: their names and contents.

``E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json`` holds configs for some numbers of
tokens. A step takes the one of the nearest number. Values go into the launch unchanged. A name that the kernel does not
have stops the engine. Facts of vLLM 0.33.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import device_file_name
from bo_tune.engines.provenance import PROVENANCE_SUFFIX
from bo_tune.engines.vllm.launchable import numbers_fault, with_lower_case_names
from bo_tune.engines.vllm.lookup import first_odd_key
from bo_tune.files import shown

PATTERN = "E=*,N=*,device_name=*.json"
"""Pattern of their names, for people."""

_NAME = re.compile(
    r"E=(?P<E>\d+),N=(?P<N>\d+),device_name=(?P<device>[^,]+)(,dtype=(?P<dtype>[^,]+))?(,block_shape=\[\d+,\d+\])?\.json"
)

DTYPES = ("fp8_w8a8", "fp8_w8a16", "int8_w8a16", "int4_w4a16", "float32")
"""Element types in the names of files. For weights of 16 bits, the name has none."""

_FAMILY = "H200"
"""The engine uses one name of file for all GPUs with this part in their names."""

REFERENCE = "triton_version"
"""The only key that need not be a number. It is ignored."""

BLOCKS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M")
SPLIT_K = "SPLIT_K"
_INT4_NEEDED = ("BLOCK_SIZE_M", "GROUP_SIZE_M", SPLIT_K)
"""Parameters that an int4 config needs. The engine chooses the other blocks itself. Everything else goes to the kernel
unchanged, which needs SPLIT_K."""
_LAUNCH = ("num_warps", "num_stages", "num_ctas")
_IGNORED = (SPLIT_K, "maxnreg")
"""Parameters that may have any value. The engine sets the first itself, or its kernel does not use it. The second may
be null."""
_VENDORS = {"AMD": ("waves_per_eu", "matrix_instr_nonkdim", "kpack"), "Intel": ("grf_mode",)}
"""Launch options of other vendors' GPUs, by the start of these GPUs' names."""


@dataclass(frozen=True, slots=True)
class ExpertsFile:
    """The parts of such a file's name.

    Attributes:
        device: the GPU, as written there.
        dtype: element types; None if the name has none.
    """

    device: str
    dtype: str | None

    @classmethod
    def of(cls, name: str) -> "ExpertsFile | None":
        """Parse a name; None if the engine does not ask for it on any GPU."""
        match = None if name.endswith(PROVENANCE_SUFFIX) else _NAME.fullmatch(name)
        return cls(match["device"], match["dtype"]) if match else None

    def fault(self, config: object) -> str | None:
        """Return why the kernel cannot be launched with a config, or None."""
        if not isinstance(config, dict):
            return f"expected a config, got {shown(config)}"
        needed = _INT4_NEEDED if self.dtype == "int4_w4a16" else BLOCKS
        vendors = next((names for vendor, names in _VENDORS.items() if self.device.startswith(vendor)), ())
        known = {*BLOCKS, *_LAUNCH, *_IGNORED, *vendors}
        missing = [name for name in needed if name not in config]
        unknown = [name for name in config if name not in known]
        if missing:
            return f"{missing[0]} is missing"
        if unknown:
            return f"{unknown[0]} is not a parameter of the kernel"
        return numbers_fault(
            with_lower_case_names({name: config[name] for name in (*BLOCKS, *_LAUNCH) if name in config})
        )


def device_of(gpu: str) -> str:
    """Return a GPU's name as it stands in the names of these files.

    Args:
        gpu: name as given by ``torch.cuda.get_device_name``.
    """
    name = device_file_name(gpu)
    return f"NVIDIA_{_FAMILY}" if _FAMILY in name.split("_") else name


def file_name(experts: int, n: int, gpu: str, weights: str = "", block: tuple[int, int] | None = None) -> str:
    """Return the name of a file.

    Args:
        experts: experts on this rank.
        n: sharded intermediate size of an expert.
        gpu: as in ``device_of``.
        weights: one of ``DTYPES``; empty for 16 bits.
        block: rows and columns that share a scale. It is not in the name if it is a group of a row.
    """
    dtype = f",dtype={weights}" if weights else ""
    shape = f",block_shape=[{block[0]},{block[1]}]" if block and all(block) else ""
    return f"E={experts},N={n},device_name={device_of(gpu)}{dtype}{shape}.json"


def configs_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configs of a file, by its keys as they stand there."""
    return {key: value for key, value in content.items() if key != REFERENCE}


def key_of(keys: Mapping[str, Any], m: int) -> str | None:
    """Return the key under which vLLM looks up a number of tokens: the nearest, or the first of several.

    Args:
        keys: the result of ``configs_in``.

    Returns:
        None if a key is not a number, at which the engine stops for every lookup. None also if there are no keys, for
        which it takes its default.
    """
    if not keys or first_odd_key(keys) is not None:
        return None
    numbers: dict[int, str] = {}
    for key in keys:
        numbers[int(key)] = key  # if several keys are one number, the last config counts, in the first's place
    return numbers[min(numbers, key=lambda number: abs(number - m))]
