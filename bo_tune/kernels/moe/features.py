"""Features of configs of the fused MoE LoRA kernels, computed before anything is compiled."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.conclusion import SHARED
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.lora.features import Column, Work, columns_of
from bo_tune.kernels.lora.features import features as lora_features
from bo_tune.kernels.lora.spec import Columns
from bo_tune.kernels.moe.spec import MoeLoraSpec, experts_of
from bo_tune.processes.importing import LateModule

_special = LateModule("scipy.special")


def features(spec: MoeLoraSpec, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> NDArray[np.float64]:
    """Implement ``KernelSpec.features``."""
    described = lora_features(spec, configs, problem, gpu, partial(work, spec))
    c = columns_of(configs, spec.product_length(problem), split=spec.has_split_k)
    experts = experts_of(problem)
    pairs = problem.m * experts.top_k
    blocks = np.ceil((pairs + experts.count * (c.block_m - 1)) / c.block_m)
    tiles = np.ceil(spec.product_width(problem) / c.block_n) * problem.num_slices * c.split_k
    return np.column_stack([described, np.log2(blocks * tiles * (problem.max_loras + 1))])


def work(spec: MoeLoraSpec, c: Columns, problem: LoraProblem) -> Work:
    """Count the programs that find work if tokens are spread uniformly over adapters and experts."""
    experts = experts_of(problem)
    groups = problem.max_loras * experts.local
    expected = problem.m * experts.top_k / (problem.max_loras * experts.count)
    blocks = groups * filled_blocks(c.block_m, expected)
    width = spec.product_width(problem)
    tiles = np.ceil(width / c.block_n)
    return Work(
        programs=blocks * tiles * problem.num_slices * c.split_k,
        m_padding=1 - groups * expected / (blocks * c.block_m),
        n_padding=1 - width / (tiles * c.block_n),
    )


def filled_blocks(block_m: Column, expected: float) -> Column:
    """Return how many blocks the tokens of one group fill on average.

    If λ tokens are expected in a group, their number X is nearly a Poisson variable. They fill E⌈X / b⌉ = Σ_j P(X > j
    b) blocks of b.
    """
    most = expected + 8 * np.sqrt(expected) + 8
    full = np.arange(np.ceil(most / block_m.min()))
    found: Column = _special.pdtrc(full * block_m[:, None], expected).sum(axis=1)
    return found


def one_launch_features(configs: Sequence[Config], problem: LoraProblem) -> NDArray[np.float64]:
    """Describe configs of a one-launch kernel (see ``KernelSpec.features``)."""
    block_m = np.array([config[SHARED] for config in configs], dtype=np.float64)
    experts = experts_of(problem)
    blocks = np.ceil((problem.m * experts.top_k + experts.count * (block_m - 1)) / block_m)
    return np.column_stack([np.log2(block_m), np.log2(blocks)])
