"""Configs of the fused MoE LoRA kernels in an engine without tuned files: those of the base model's experts.

vLLM passes the config of the base model's fused MoE kernel on to the LoRA kernels, with one block size bounded by the
rank. The config comes from a file that vLLM ships for the shape and the GPU. Without such a file, it comes from the
general rule, which is restated here (``get_default_config`` of vLLM 0.33.0, for weights that are not quantised in
blocks). Only an installed vLLM can say whether it ships a file: ``kernels.vllm.untuned``.
"""

from collections.abc import Mapping
from typing import Any

SMALLEST_DOT = 16
"""Fewest elements along k that a tile of a product may have."""

USUAL = {"block_m": 64, "block_n": 64, "block_k": 32, "group_size_m": 8, "num_warps": 4, "num_stages": 3, "split_k": 1}
"""The values that the engine takes for missing names."""


def as_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of a fused MoE kernel as the engine reads it, with the names of ``USUAL``.

    The engine accepts ``block_m`` and ``BLOCK_SIZE_M`` alike. If both are given, the last counts. A missing name gets a
    default. A null does not count as missing: the engine passes it on and stops.
    """
    said = {_as_engine_names(name): value for name, value in config.items()}
    return {name: said.get(_as_engine_names(name), usual) for name, usual in USUAL.items()}


def _as_engine_names(name: str) -> str:
    """Return a name as the engine reads it. Names in small letters are translated; others stay."""
    if not name.islower():
        return name
    return f"BLOCK_SIZE_{name.rpartition('_')[2].upper()}" if name.startswith("block_") else name.upper()


def general_config(m: int, experts: int) -> dict[str, int]:
    """Return the config of the base model's experts for which no file is shipped.

    Args:
        m: tokens in the step.
        experts: experts on this rank.
    """
    return {
        "block_m": _by_size(m, {32: 16, 96: 32, 512: 64}, 128),
        "block_n": 64 if m <= 64 else 128,
        "block_k": 128 if m <= 64 else 64,
        "group_size_m": 16 if m // experts > 128 else 1,
        "num_warps": 4 if m <= 128 else 8,
        "num_stages": 4 if m <= 32 else 3,
        "split_k": 1,
    }


def bounded(config: Mapping[str, int], rank: int, *, shrinks: bool) -> dict[str, int]:
    """Return the config of the base model's experts as a LoRA kernel takes it.

    Args:
        rank: rank of the adapters, as the kernel's weights hold it.
        shrinks: whether the rank is the width of the product, rather than its length.
    """
    most = 1 << (rank - 1).bit_length()
    if shrinks:
        return {**config, "block_n": min(config["block_n"], most)}
    return {**config, "block_k": max(SMALLEST_DOT, min(config["block_k"], most))}


def _by_size(m: int, values: Mapping[int, int], beyond: int) -> int:
    return next((value for most, value in values.items() if m <= most), beyond)
