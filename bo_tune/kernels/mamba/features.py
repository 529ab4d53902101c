"""Features of configs of a Mamba-2 layer's decode step, computed before anything is compiled, in columns."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config
from bo_tune.kernels.mamba.spec import WARP, power_of_two
from bo_tune.kernels.mamba.step import MambaStep

STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MOST_BLOCKS_PER_SM = 32


def features(configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> NDArray[np.float64]:
    """Implement ``KernelSpec.features``."""
    step = MambaStep.of(problem)
    rows = np.array([config["BLOCK_SIZE_M"] for config in configs], dtype=np.float64)
    threads = WARP * np.array([config["num_warps"] for config in configs], dtype=np.float64)
    blocks = np.ceil(step.headdim / rows)
    programs = blocks * step.key
    resident = np.clip(np.floor(gpu.threads_per_sm / threads), 1, MOST_BLOCKS_PER_SM)
    moved = 2 * rows * step.dstate * STATE_BYTES[step.state_dtype]  # read and written
    elements = rows * power_of_two(step.dstate) / threads
    padding = 1 - step.headdim / (rows * blocks)
    per_sm = np.maximum(programs / gpu.sm_count, 1.0) * moved
    logarithmic = np.log2(
        [rows, threads / WARP, elements, programs, programs / (gpu.sm_count * resident), moved, per_sm]
    )
    return np.column_stack([*logarithmic[:3], padding, *logarithmic[3:]])
