"""What an engine without tuned files runs of the fused MoE LoRA kernels: what it runs of the base model's experts.

vLLM passes the config of the base model's fused MoE kernel on to the LoRA kernels, with one block size bounded by the
rank. That config comes from a file that vLLM ships for the shape and the GPU, or else from the general rule restated
here (``get_default_config`` of vLLM 0.33.0, for weights that are not quantised in blocks). Whether a file is shipped,
only an installed vLLM can say: ``kernels.vllm.untuned``.
"""

from collections.abc import Mapping
from typing import Any

SMALLEST_DOT = 16
"""Fewest elements along k that a tile of a product may have."""

UNSAID = {"block_m": 64, "block_n": 64, "block_k": 32, "group_size_m": 8, "num_warps": 4, "num_stages": 3, "split_k": 1}
"""What the engine takes where a config says nothing."""


def as_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config by the names of this project, whichever of the engine's two ways of writing them it uses.

    What it leaves open, or gives as None, is as the engine takes it.
    """
    said = {name.lower().replace("block_size_", "block_"): value for name, value in config.items() if value is not None}
    return {**UNSAID, **said}


def general_config(m: int, experts: int) -> dict[str, int]:
    """Return the config of the base model's experts where no file is shipped.

    Args:
        m: tokens in the step.
        experts: experts of this rank.
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
        rank: of the adapters, as the kernel's weights hold it.
        shrinks: whether the rank is the width of the product; else it is the length.
    """
    most = 1 << (rank - 1).bit_length()
    if shrinks:
        return {**config, "block_n": min(config["block_n"], most)}
    return {**config, "block_k": max(SMALLEST_DOT, min(config["block_k"], most))}


def _by_size(m: int, values: Mapping[int, int], beyond: int) -> int:
    return next((value for most, value in values.items() if m <= most), beyond)
