"""Features of configs of the base model's experts, computed before anything is compiled: both products, in columns."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config
from bo_tune.kernels.experts.spec import OF_ONE_PRODUCT, launched, shared_memory
from bo_tune.kernels.experts.step import WEIGHT_BYTES, ExpertsStep
from bo_tune.kernels.lora.features import Column, Product, Work, columns_of, described
from bo_tune.kernels.lora.spec import FEATURE_NAMES, Columns
from bo_tune.kernels.moe.features import filled_blocks

OUTPUT_BYTES = 2


def runnable(configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> NDArray[np.bool_]:
    """Implement ``KernelSpec.runnable``."""
    if not gpu.is_cuda:
        return np.ones(len(configs), dtype=np.bool_)
    step = ExpertsStep.of(problem)
    named, fits = _named(configs, step), np.ones(len(configs), dtype=np.bool_)
    for length, _ in () if step.is_grouped else step.products:
        fits &= shared_memory(columns_of(named, length, split=False), length, step, gpu) <= gpu.shared_memory_bytes
    return fits


def features(configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> NDArray[np.float64]:
    """Implement ``KernelSpec.features``."""
    step = ExpertsStep.of(problem)
    named = _named(configs, step)
    first, second = (_of_product(named, step, length, width, gpu) for length, width in step.products)
    groups = np.log2([config["group_size_m"] for config in named])
    own = [FEATURE_NAMES.index(name) for name in OF_ONE_PRODUCT]
    return np.column_stack([first, groups, second[:, own]])


def _of_product(
    named: Sequence[Config], step: ExpertsStep, length: int, width: int, gpu: GpuInfo
) -> NDArray[np.float64]:
    c = columns_of(named, length, split=False)
    shared, weight_bytes = shared_memory(c, length, step, gpu), WEIGHT_BYTES[step.weights]
    product = Product(
        length, shared, step.activation_bytes, OUTPUT_BYTES, behind_table=False, weight_bytes=weight_bytes
    )
    return described(c, product, _work(c, step, width), gpu)


def _work(c: Columns, step: ExpertsStep, width: int) -> Work:
    """Count the programs that find work if tokens are spread uniformly over the experts."""
    blocks, rows = _blocks(c, step)
    tiles = np.ceil(width / c.block_n)
    return Work(
        programs=blocks * tiles, m_padding=1 - rows / (blocks * c.block_m), n_padding=1 - width / (tiles * c.block_n)
    )


def _blocks(c: Columns, step: ExpertsStep) -> tuple[Column, float]:
    """Return the number of blocks that hold tokens, and the number of rows in all of them."""
    if not step.is_sorted:
        return np.full(len(c.block_m), float(step.pairs)), float(step.pairs)
    each = step.pairs / step.experts.count
    return step.experts.local * filled_blocks(c.block_m, each), step.experts.local * each


def _named(configs: Sequence[Config], step: ExpertsStep) -> list[Config]:
    """Return configs as they are launched, with the names that other kernels use."""
    return [launched(config, step) for config in configs]
