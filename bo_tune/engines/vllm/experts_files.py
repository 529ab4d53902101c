"""The files in which vLLM looks up configs of the base model's experts: their names, and what may stand in them.

``E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json`` holds a config for each of some
numbers of tokens, of which the nearest to a step's counts. Values go into the launch as they are: a name that the
kernel does not have stops the engine. Facts of vLLM 0.33.0.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.core.problem import device_file_name
from bo_tune.engines.provenance import PROVENANCE_SUFFIX
from bo_tune.engines.vllm.launchable import in_small_letters, numbers_fault
from bo_tune.engines.vllm.lookup import first_odd_key
from bo_tune.files import shown

PATTERN = "E=*,N=*,device_name=*.json"
"""What their names look like, for people."""

_NAME = re.compile(
    r"E=(?P<E>\d+),N=(?P<N>\d+),device_name=(?P<device>[^,]+)(,dtype=(?P<dtype>[^,]+))?(,block_shape=\[\d+,\d+\])?\.json"
)

DTYPES = ("fp8_w8a8", "fp8_w8a16", "int8_w8a16", "int4_w4a16", "float32")
"""What files are asked for by; for weights of 16 bits by none."""

_FAMILY = "H200"
"""The engine looks for the files of all GPUs with this part in their names under one name."""

REFERENCE = "triton_version"
"""The one key that need not be a number: it is passed over."""

BLOCKS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M")
SPLIT_K = "SPLIT_K"
_INT4_NEEDED = ("BLOCK_SIZE_M", "GROUP_SIZE_M", SPLIT_K)
"""The engine chooses the other blocks itself. All else goes to the kernel as it is, which needs the last."""
_LAUNCH = ("num_warps", "num_stages", "num_ctas")
_IGNORED = (SPLIT_K, "maxnreg")
"""Taken whatever they are: the engine sets the first itself, or its kernel makes no use of it, and the second may be
null."""
_VENDORS = {"AMD": ("waves_per_eu", "matrix_instr_nonkdim", "kpack"), "Intel": ("grf_mode",)}
"""Launch options of others' GPUs, by how the names of these begin."""


@dataclass(frozen=True, slots=True)
class ExpertsFile:
    """What the name of such a file says.

    Attributes:
        device: the GPU, as it is written there.
        dtype: element types; None for no such part.
    """

    device: str
    dtype: str | None

    @classmethod
    def of(cls, name: str) -> "ExpertsFile | None":
        """Take a name apart; None for one that the engine asks for on no GPU."""
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
            return f"no {missing[0]}"
        if unknown:
            return f"{unknown[0]}: no parameter of the kernel"
        return numbers_fault(in_small_letters({name: config[name] for name in (*BLOCKS, *_LAUNCH) if name in config}))


def device_of(gpu: str) -> str:
    """Return a GPU's name as it stands in the names of these files.

    Args:
        gpu: as ``torch.cuda.get_device_name`` gives it.
    """
    name = device_file_name(gpu)
    return f"NVIDIA_{_FAMILY}" if _FAMILY in name.split("_") else name


def file_name(experts: int, n: int, gpu: str, weights: str = "", block: tuple[int, int] | None = None) -> str:
    """Return the name of a file.

    Args:
        experts: of this rank.
        n: intermediate size of an expert, as sharded.
        gpu: as in ``device_of``.
        weights: one of ``DTYPES``; nothing for 16 bits.
        block: rows and columns that share a scale; one of groups of a row is not named.
    """
    dtype = f",dtype={weights}" if weights else ""
    shape = f",block_shape=[{block[0]},{block[1]}]" if block and all(block) else ""
    return f"E={experts},N={n},device_name={device_of(gpu)}{dtype}{shape}.json"


def configs_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of numbers of tokens, by its keys as they stand there."""
    return {key: value for key, value in content.items() if key != REFERENCE}


def key_of(keys: Mapping[str, Any], m: int) -> str | None:
    """Return the key under which vLLM looks a number of tokens up: the nearest, of equally near ones the first.

    Args:
        keys: what ``configs_in`` returned.

    Returns:
        None where one of the keys is no number, at which the engine stops, whichever it asks for; and where there is
        none, so that it takes its default.
    """
    if not keys or first_odd_key(keys) is not None:
        return None
    numbers: dict[int, str] = {}
    for key in keys:
        numbers[int(key)] = key  # of keys that are one number the last one's config counts, in the place of the first
    return numbers[min(numbers, key=lambda number: abs(number - m))]
