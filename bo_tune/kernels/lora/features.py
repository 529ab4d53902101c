"""Features of LoRA configs, computed before anything is compiled: occupancy, work and traffic, in columns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.kernels.lora.spec import TILE_AND_LAUNCH, WEIGHT_BYTES, Columns, LoraSpec

Column = NDArray[np.float64]

RESERVED_SHARED_BYTES = 1024
"""Shared memory that the driver reserves for each resident block."""
MOST_BLOCKS_PER_SM = 32
MOST_REGISTERS_PER_THREAD = 255


def columns_of(configs: Sequence[Config], k: int, *, split: bool) -> Columns:
    """Transpose configs. ``split`` says whether they have a split_k."""
    names = (*TILE_AND_LAUNCH, "split_k") if split else TILE_AND_LAUNCH
    values: Iterable[int] = chain.from_iterable(map(itemgetter(*names), configs))
    table = np.fromiter(values, dtype=np.float64, count=len(configs) * len(names)).reshape(-1, len(names))
    split_k = table[:, 5] if split else np.ones(len(configs))
    even_k = k % (table[:, 2] * split_k) == 0
    return Columns(table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 4], split_k, even_k)


def runnable(spec: LoraSpec, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> NDArray[np.bool_]:
    """Implement ``KernelSpec.runnable``."""
    columns = columns_of(configs, spec.product_length(problem), split=spec.has_split_k)
    clusters = np.array([config.get("num_ctas", 1) for config in configs])
    needed = spec.shared_memory(columns, problem, gpu) // clusters
    within: NDArray[np.bool_] = needed <= gpu.shared_memory_bytes
    return within | (not gpu.is_cuda)  # see ``impossible``


def features(
    spec: LoraSpec, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo, counted: "Counted | None" = None
) -> NDArray[np.float64]:
    """Implement ``KernelSpec.features``. ``counted`` counts a kernel's work; the default is that of a dense kernel."""
    length = spec.product_length(problem)
    c = columns_of(configs, length, split=spec.has_split_k)
    product = Product(
        length,
        spec.shared_memory(c, problem, gpu),
        spec.activation_bytes,
        spec.output_bytes_per_element,
        behind_table=spec.behind_table(problem),
    )
    return described(c, product, (counted or work)(c, problem), gpu)


@dataclass(frozen=True, slots=True)
class Product:
    """The facts about a kernel's product that its features depend on, besides the configs and the work.

    Attributes:
        length: length of the product, in elements.
        shared: shared memory of each config, in bytes.
        activation_bytes: bytes of one element of the activations in memory.
        output_bytes_per_element: traffic of one element of the output.
        behind_table: whether the weights' address is read from a table.
        weight_bytes: bytes of one element of the weights in memory.
    """

    length: int
    shared: Column
    activation_bytes: int
    output_bytes_per_element: float
    behind_table: bool
    weight_bytes: float = WEIGHT_BYTES


def described(c: Columns, product: Product, found: "Work", gpu: GpuInfo) -> NDArray[np.float64]:
    """Return the columns of ``FEATURE_NAMES``."""
    accumulators = c.block_m * c.block_n / (32 * c.num_warps)
    demand = register_demand(c, accumulators, table=product.behind_table)
    shared, length = product.shared, product.length
    occupancy = blocks_per_sm(c, shared, demand, gpu)
    waves = found.programs / (gpu.sm_count * occupancy)
    iterations = np.ceil(length / (c.block_k * c.split_k))  # tiles along k that the busiest program multiplies
    flops = 2 * c.block_m * c.block_n * c.block_k * iterations
    tile_bytes = (c.block_m * product.activation_bytes + c.block_n * product.weight_bytes) * c.block_k * iterations
    output_bytes = c.block_m * c.block_n * product.output_bytes_per_element
    per_sm = np.maximum(found.programs / gpu.sm_count, 1.0)
    logarithmic = [c.block_m, c.block_n, c.block_k, c.split_k, c.num_warps, accumulators, demand, iterations]
    logarithmic += [shared / gpu.shared_memory_bytes, occupancy, occupancy * c.num_warps, found.programs, waves]
    logarithmic += [flops, tile_bytes + output_bytes, flops / (tile_bytes + output_bytes)]
    logarithmic += [per_sm * (tile_bytes + output_bytes), per_sm * output_bytes, per_sm * flops]
    m, n, k, split, warps, acc, need, iters, share, blocks, resident, programs, wave, *rest = np.log2(logarithmic)
    k_padding = 1 - length / (c.split_k * c.block_k * iterations)
    even = c.even_k.astype(np.float64)
    tile = [m, n, k, split, c.num_stages, warps, acc, need, even, iters]
    padding = [k_padding, found.m_padding, found.n_padding]
    return np.column_stack([*tile, *padding, share, blocks, resident, programs, wave, waves / np.ceil(waves), *rest])


@dataclass(frozen=True, slots=True)
class Work:
    """For each config, the number of programs that find work, and the share of their tiles that pads m and n."""

    programs: Column
    m_padding: Column
    n_padding: Column


Counted = Callable[[Columns, LoraProblem], Work]


def work(c: Columns, problem: LoraProblem) -> Work:
    """Count the programs that find work, for tokens spread uniformly over the adapters."""
    loras = problem.max_loras
    groups = loras * (1 - (1 - 1 / loras) ** problem.m)
    rows = problem.m / groups
    tiles_m = np.ceil(rows / c.block_m)
    widths = np.asarray(problem.slice_sizes, dtype=np.float64)
    tiles_n = np.ceil(widths / c.block_n[:, None]).sum(axis=1)
    return Work(
        programs=groups * tiles_m * tiles_n * c.split_k,
        m_padding=1 - rows / (tiles_m * c.block_m),
        n_padding=1 - widths.sum() / (tiles_n * c.block_n),
    )


def register_demand(c: Columns, accumulators: Column, *, table: bool) -> Column:
    """Estimate the registers that a thread would like to have. More than 255 spill.

    They hold accumulators, addresses, and tiles that pass through registers because they are not copied asynchronously.
    A ragged k causes both of the latter. Behind a table, every single weight and output has an address of two
    registers.
    """
    threads = 32 * c.num_warps
    x_registers = c.block_m * c.block_k / 2 / threads
    w_registers = c.block_n * c.block_k / 2 / threads
    if table:
        return 32 + 3 * accumulators + 6 * w_registers + np.where(c.even_k, 0.25, 1.0) * x_registers
    return 32 + 1.25 * accumulators + np.where(c.even_k, 0.25, 1.0) * (x_registers + w_registers)


def blocks_per_sm(c: Columns, shared: Column, demand: Column, gpu: GpuInfo) -> Column:
    """Estimate how many blocks reside on a multiprocessor; at least one."""
    threads = 32 * c.num_warps
    registers = np.minimum(demand, MOST_REGISTERS_PER_THREAD)
    per_sm = gpu.shared_memory_bytes + RESERVED_SHARED_BYTES
    limits = (gpu.threads_per_sm / threads, gpu.registers_per_sm / (registers * threads))
    fewest = np.minimum(np.minimum(*limits), per_sm / (shared + RESERVED_SHARED_BYTES))
    return np.clip(np.floor(fewest), 1, MOST_BLOCKS_PER_SM)
