"""What the fused MoE kernels make of configs found in files: other names for the parameters, and one block_m for all.

Their engine takes ``block_m`` and ``BLOCK_SIZE_M`` alike, and a default for what is missing. It sorts a step's tokens
into blocks once, by the block_m of the first of the four kernels.
"""

from collections.abc import Mapping
from typing import Any

from bo_tune.kernels.registry import KERNELS, kernel_spec
from bo_tune.kernels.spec import SHARED, KernelSpec
from bo_tune.problem import Problem

USUAL = {"block_m": 64, "block_n": 64, "block_k": 32, "group_size_m": 8, "num_warps": 4, "num_stages": 3, "split_k": 1}
"""What the engine takes where a config says nothing."""


def as_read(spec: KernelSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of a fused MoE kernel by the names of its search space; None counts as nothing said."""
    said = {_name(name): value for name, value in config.items() if value is not None}
    return {name: said.get(name, USUAL[name]) for name in spec.search_space.names}


def _name(name: str) -> str:
    return name.lower().replace("block_size_", "block_")


def disagreements(found: Mapping[Problem, Mapping[str, Any]]) -> dict[Problem, str]:
    """Say of which problems' configs the engine can make nothing, because the first kernel's is of another block_m.

    Args:
        found: the configs of problems, as ``as_read`` gives them; those of kernels that stand alone are passed over.
    """
    groups: dict[object, list[Problem]] = {}
    for problem in found:
        group = kernel_spec(problem.kernel).joint_group(problem)
        if group is not None:
            groups.setdefault(group, []).append(problem)
    order, reasons = list(KERNELS), {}
    for problems in groups.values():
        first = min(problems, key=lambda problem: order.index(problem.kernel))
        value = found[first].get(SHARED)
        for problem in problems:
            own = found[problem].get(SHARED)
            if own != value:
                reasons[problem] = (
                    f"{SHARED} {own}, where {first.kernel} has {value}: tokens are sorted by the latter, "
                    "and the engine stops or computes something else"
                )
    return reasons
