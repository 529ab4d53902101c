"""What a config of a tuned file has to hold for its kernel to be launched with it. Facts of vLLM 0.33.0.

The dense kernels read the names below by subscript: one that is missing is a KeyError in the engine, and null or text
fails at the launch. The fused MoE kernels have a default for each name (``agreement``). Other names are ignored.
"""

import json
from collections.abc import Mapping
from typing import Any

from bo_tune.engines.vllm.file_names import FILE_STEMS
from bo_tune.kernels.moe.untuned import as_read

DENSE_NAMES = ("block_m", "block_n", "block_k", "num_warps", "num_ctas", "num_stages")
SHRINK_NAMES = (*DENSE_NAMES, "split_k")
OPTIONAL_NAMES = ("group_size_m",)
"""Of shrink; eight where a config says nothing."""

POWERS_OF_TWO = frozenset({"block_m", "block_n", "block_k", "num_warps", "num_ctas"})
MOST = {"num_warps": 32}
"""A block has at most 1,024 threads."""
LEAST = {"block_k": 16}
"""Fewest elements along k that a tile of a product of 16-bit numbers may have."""

LEAST_SORTED = 16
"""Fewest rows of a block that one launch of a fused MoE half takes."""

MOE_LEVELS = 6


def config_fault(stem: str, config: object) -> str | None:
    """Return why a kernel cannot be launched with a config, or None.

    Args:
        stem: what follows the GPU's name in the file's name.
    """
    if not isinstance(config, dict):
        return f"expected a config, got {shown(config)}"
    if FILE_STEMS[stem] == MOE_LEVELS:
        return numbers_fault(as_read(config))
    names = SHRINK_NAMES if stem == "SHRINK" else DENSE_NAMES
    missing = [name for name in names if name not in config]
    if missing:
        upper = [name for name in config if name != name.lower()]
        other = f"; {upper[0]} is read by the fused MoE kernels only" if upper else ""
        return f"no {missing[0]}: a KeyError in the engine{other}"
    read = (*names, *(OPTIONAL_NAMES if stem == "SHRINK" else ()))
    return numbers_fault({name: config[name] for name in read if name in config})


def numbers_fault(read: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the values that a kernel reads, by their names in small letters; None for nothing."""
    for name, value in read.items():
        least = LEAST.get(name, 1)
        if type(value) is not int or value < least:
            return f"{name}: expected an integer >= {least}, got {shown(value)}"
        if value > MOST.get(name, value):
            return f"{name}: expected at most {MOST[name]}, got {value}"
        if name in POWERS_OF_TWO and value & (value - 1):
            return f"{name}: expected a power of two, got {value}"
    return None


def shown(value: object) -> str:
    """Return a value of a file as a message shows it."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
