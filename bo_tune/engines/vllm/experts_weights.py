"""How an engine holds the experts of a quantised checkpoint, if its Triton kernels multiply them.

Facts of vLLM 0.33.0, for an engine with adapters on NVIDIA's GPUs. Of its kernels for fp8, only the Triton one takes
adapters. For integers, Marlin comes first, which reads no tuned files, unless ``--quantization moe_wna16`` excludes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

from bo_tune.kernels.experts.step import FP8

WNA16 = "moe_wna16"
"""Value of the engine's ``--quantization`` with which the Triton kernel multiplies integers."""

LEAST_BLOCK = 32
"""Fewest rows and columns with a scale of their own. The engine shrinks blocks to fit a rank's share, but not below
this."""


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The engine's format of a checkpoint's experts.

    Attributes:
        weights: name in the engine's files; empty for 16 bits.
        block: see ``ExpertsStep``.
        zeros: whether integers have zero points.
        unserved: why the engine looks up no config for them; empty if it does.
    """

    weights: str = ""
    block: tuple[int, int] | None = None
    zeros: bool = False
    unserved: str = ""

    def on(self, n: int, hidden: int) -> "ExpertWeights":
        """Return the format on a rank. Blocks and groups are made smaller if its share is not a multiple of them.

        Args:
            n: sharded intermediate size.
            hidden: width of the experts' input.
        """
        if self.block is None:
            return self
        rows, columns = self.block
        if rows == 0:
            while columns >= LEAST_BLOCK and (n % columns or hidden % columns):
                columns //= 2
            block = (0, columns)
        elif n % rows or n % columns:
            size = gcd(rows, columns, n, hidden)
            block = (size, size)
        else:
            block = self.block
        if block[1] < LEAST_BLOCK:
            return ExpertWeights(
                unserved=f"{n} and {hidden} elements cannot be divided evenly into blocks of {LEAST_BLOCK} or more "
                "that share "
                "a scale"
            )
        return ExpertWeights(self.weights, block, self.zeros)


def expert_weights(config: Mapping[str, Any], asked: str | None = None) -> ExpertWeights:
    """Return the engine's format for a checkpoint's ``quantization_config``.

    Args:
        config: the config; empty for none.
        asked: the engine's ``--quantization``; None if the checkpoint decides.
    """
    method = config.get("quant_method")
    if asked not in (None, WNA16, method):
        return ExpertWeights(unserved=f"bo_tune does not know experts of --quantization {asked}")
    if asked == WNA16:
        return _integers(config, method)
    if method is None:
        return ExpertWeights()
    if method == "fp8":
        return _fp8(config.get("weight_block_size"))
    if method == "compressed-tensors":
        return _compressed(config.get("config_groups"))
    return ExpertWeights(unserved=f"experts of {method} are multiplied by kernels that read no tuned files")


def _fp8(block: object) -> ExpertWeights:
    if block is None:
        return ExpertWeights(FP8)
    if isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block):
        return ExpertWeights(FP8, (block[0], block[1]))
    return ExpertWeights(unserved=f"weight_block_size: expected two sizes, got {block!r}")


def _compressed(groups: object) -> ExpertWeights:
    """Return the format of compressed-tensors. All layers are assumed to have the same."""
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    group = first if isinstance(first, dict) else {}
    weights, inputs = (group.get(name) or {} for name in ("weights", "input_activations"))
    if not isinstance(weights, dict) or (weights.get("type"), weights.get("num_bits")) != ("float", 8):
        return ExpertWeights(
            unserved="experts of compressed integers are multiplied by kernels that read no tuned files"
        )
    if weights.get("strategy") == "block":
        return _fp8(weights.get("block_structure"))
    if weights.get("strategy") == "tensor" and isinstance(inputs, dict) and inputs.get("strategy") == "tensor":
        return ExpertWeights(FP8)
    return ExpertWeights(unserved="bo_tune does not know experts in fp8 with a scale for each channel or token")


def _integers(config: Mapping[str, Any], method: object) -> ExpertWeights:
    bits, group = config.get("bits"), config.get("group_size")
    if (method, bits) not in (("gptq", 4), ("gptq", 8), ("awq", 4)) or config.get("desc_act"):
        return ExpertWeights(
            unserved=f"--quantization {WNA16} supports only gptq of 4 or 8 bits in order, and awq of 4"
        )
    if type(group) is not int or group < LEAST_BLOCK:
        return ExpertWeights(
            unserved=f"--quantization {WNA16}: expected a group_size of at least {LEAST_BLOCK}, got {group!r}"
        )
    zeros = bool(config.get("zero_point")) if method == "awq" else config.get("sym") is False
    return ExpertWeights(f"int{bits}_w{bits}a16", (0, group), zeros)
