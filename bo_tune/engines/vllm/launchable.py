"""Values with which a kernel of vLLM's cannot be launched, whichever file they stand in."""

from collections.abc import Mapping
from typing import Any

from bo_tune.files import shown

POWERS_OF_TWO = frozenset({"block_m", "block_n", "block_k", "num_warps", "num_ctas"})
MOST = {"num_warps": 32}
"""Largest values. A block has at most 1,024 threads."""
LEAST = {"block_k": 16}
"""Smallest values: the fewest elements along k of a tile of 16-bit numbers."""


def numbers_fault(read: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the values that a kernel reads, by lower-case names; None if nothing is."""
    for name, value in read.items():
        least = LEAST.get(name, 1)
        if type(value) is not int or value < least:
            return f"{name}: expected an integer >= {least}, got {shown(value)}"
        if value > MOST.get(name, value):
            return f"{name}: expected at most {MOST[name]}, got {value}"
        if name in POWERS_OF_TWO and value & (value - 1):
            return f"{name}: expected a power of two, got {value}"
    return None


def with_lower_case_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the names of LoRA files, which ``numbers_fault`` uses in messages."""
    return {name.lower().replace("block_size_", "block_"): value for name, value in config.items()}
