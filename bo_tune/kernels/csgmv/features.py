"""Features of configs of chunked LoRA products, computed before anything is compiled, in columns."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.core.space import Config
from bo_tune.kernels.csgmv.spec import NO_LIMIT, named, shared_memory
from bo_tune.kernels.csgmv.step import EXPAND, CsgmvStep
from bo_tune.kernels.lora.features import Product, Work, columns_of, described
from bo_tune.kernels.lora.spec import WEIGHT_BYTES, Columns


def features(configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> NDArray[np.float64]:
    """Implement ``KernelSpec.features``."""
    step = CsgmvStep.of(problem)
    c = columns_of([named(config, step) for config in configs], step.length, split=False)
    written = 2 * WEIGHT_BYTES if step.kernel == EXPAND else WEIGHT_BYTES  # expand reads what it adds to
    product = Product(step.length, shared_memory(c, step, gpu), WEIGHT_BYTES, written, behind_table=False)
    limits = np.log2([config.get("maxnreg", NO_LIMIT) for config in configs])
    return np.column_stack([described(c, product, _work(c, step), gpu), limits])


def _work(c: Columns, step: CsgmvStep) -> Work:
    """Count the programs that find work if tokens are spread uniformly over the adapters."""
    groups = step.adapters * (1 - (1 - 1 / step.adapters) ** step.m)
    rows = step.m / groups
    chunks = np.ceil(rows / step.chunk)
    widths = np.asarray(step.outputs, dtype=np.float64)
    tiles = np.ceil(widths / c.block_n[:, None]).sum(axis=1)
    return Work(
        programs=groups * chunks * tiles,
        m_padding=np.full(len(c.block_n), 1 - rows / (chunks * step.chunk)),
        n_padding=1 - widths.sum() / (tiles * c.block_n),
    )
