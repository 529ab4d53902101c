"""The config that an engine runs for the base model's experts if it ships no file, by the format of their weights.

These are facts of vLLM 0.33.0 (``get_default_config`` and ``get_moe_wna16_block_config``) on NVIDIA's GPUs, restated
for replays and machines without vLLM. If vLLM is installed, its own functions are asked (``kernels.vllm.untuned``).
"""

from collections.abc import Mapping

from bo_tune.kernels.experts.step import FP8, INT4, ExpertsStep
from bo_tune.kernels.moe.untuned import general_config

TRITONS = {"num_warps": 4, "num_stages": 3}
"""Triton's values where a config has none."""

FEW_PAIRS = 6
"""Up to this many pairs per expert, the engine picks block rows for another kernel of 4-bit weights."""

CUDAS_GROUPS = (32, 64, 128)
"""Group sizes that that kernel takes."""


def rule_of(step: ExpertsStep) -> dict[str, int]:
    """Return the config of a step, with the names that other kernels use."""
    if step.is_grouped:
        return filled(_rows_of_grouped(step), step)
    if step.weights == FP8 and step.block:
        return _of_blocks(step.m, *step.block)
    general = general_config(step.m, step.experts.local)
    return {**general, "block_k": 128} if step.weights == FP8 else general


def filled(config: Mapping[str, int], step: ExpertsStep) -> dict[str, int]:
    """Return a config for integer weights. If it lacks a side of the tile, the engine's tile is filled in."""
    tile = {"block_n": 32, "block_k": 64} if step.m == 1 else {"block_n": 64, "block_k": 32}
    if "block_n" in config and "block_k" in config:
        tile = {}
    return {**TRITONS, **config, **tile}


def _rows_of_grouped(step: ExpertsStep) -> dict[str, int]:
    group = step.block[1] if step.block else 0
    few = step.pairs / step.experts.local <= FEW_PAIRS
    if step.weights == INT4 and group in CUDAS_GROUPS and few:
        rows = min(16, 1 << (step.m - 1).bit_length())
    else:
        rows = 16 if step.m <= 20 else 32 if step.m <= 40 else 64
    return {"block_m": rows, "group_size_m": 1}


def _of_blocks(m: int, block_n: int, block_k: int) -> dict[str, int]:
    few = m <= 8 and block_n % 64 == 0
    return {
        "block_m": 16 if m <= 64 else 64,
        "block_n": 64 if few else block_n,
        "block_k": block_k,
        "group_size_m": 1 if m <= 16 else 32,
        "num_warps": 4,
        "num_stages": 4 if few and m <= 4 else 3,
        "split_k": 1,
    }
