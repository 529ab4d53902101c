"""What the two LoRA kernels have in common before anything is compiled: shared memory, occupancy, features.

Both multiply tiles of activations ``[block_m, block_k]`` and weights ``[block_k, block_n]``, for every adapter,
slice and (shrink) share of k. All functions work on columns: one array entry per config.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.kernels.spec import EngineSpec

Column = NDArray[np.float64]

TILE_AND_LAUNCH = ("block_m", "block_n", "block_k", "num_warps", "num_stages")
WEIGHT_BYTES = 2
LEAST_ASYNC_BYTES = 4
HOPPER = 9
WGMMA_ROWS = 64
WARPS_OF_A_GROUP = 4
RESERVED_SHARED_BYTES = 1024
"""Shared memory the driver keeps of each resident block."""
MOST_BLOCKS_PER_SM = 32
MOST_REGISTERS_PER_THREAD = 255

FEATURE_NAMES = (
    "log2 block_m",
    "log2 block_n",
    "log2 block_k",
    "log2 split_k",
    "num_stages",
    "log2 num_warps",
    "log2 accumulators per thread",
    "log2 register demand",
    "even k",
    "log2 k iterations",
    "k padding",
    "m padding",
    "n padding",
    "log2 shared memory share",
    "log2 blocks per SM",
    "log2 warps per SM",
    "log2 programs",
    "log2 waves",
    "last wave fill",
    "log2 flops per program",
    "log2 bytes per program",
    "log2 intensity",
    "log2 bytes per SM",
    "log2 output bytes per SM",
    "log2 flops per SM",
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Configs by column; split_k is 1 where a kernel has none. ``even_k`` says whether the tiles cover k exactly."""

    block_m: Column
    block_n: Column
    block_k: Column
    num_warps: Column
    num_stages: Column
    split_k: Column
    even_k: NDArray[np.bool_]

    @classmethod
    def of(cls, configs: Sequence[Config], k: int, *, split: bool) -> "Columns":
        """Transpose configs; ``split`` says whether they have a split_k."""
        names = (*TILE_AND_LAUNCH, "split_k") if split else TILE_AND_LAUNCH
        values: Iterable[int] = chain.from_iterable(map(itemgetter(*names), configs))
        table = np.fromiter(values, dtype=np.float64, count=len(configs) * len(names)).reshape(-1, len(names))
        split_k = table[:, 5] if split else np.ones(len(configs))
        even_k = k % (table[:, 2] * split_k) == 0
        return cls(table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 4], split_k, even_k)

    @classmethod
    def one(cls, config: Config, k: int) -> "Columns":
        """Take one config, with numbers for columns: a hundred times faster where no more are asked for."""
        split_k = config.get("split_k", 1)
        values: list[Any] = [config[name] for name in TILE_AND_LAUNCH]
        values += [split_k, k % (config["block_k"] * split_k) == 0]
        columns: Columns = cast(Any, cls)(*values)
        return columns


class LoraSpec(EngineSpec):
    """A LoRA kernel before anything is compiled."""

    has_split_k: ClassVar[bool]
    activation_bytes: ClassVar[int]
    """Bytes of an element of the activations in memory, before any rounding to the weights' type."""
    output_bytes_per_element: ClassVar[float]
    """Traffic of one element of the output, in bytes."""

    def table_key(self, problem: Problem) -> tuple[str, ...]:
        # The engine passes its number of groups, one more than its adapters, as max_loras.
        sizes = (problem.max_loras + 1, problem.num_slices, problem.m, problem.k, problem.n)
        return tuple(map(str, sizes))

    def shared_memory_bytes(self, config: Config, problem: Problem) -> int:
        return self._shared_memory_bytes(config, problem, gpu=None)

    def impossible(self, config: Config, problem: Problem, gpu: GpuInfo) -> str | None:
        """See the base class. The bound is one of NVIDIA's GPUs: elsewhere the binary alone says what it needs."""
        needed = self._shared_memory_bytes(config, problem, gpu) if gpu.is_cuda else 0
        if needed > gpu.shared_memory_bytes:
            return f"needs {needed} B of shared memory of {gpu.shared_memory_bytes} B"
        return None

    def runnable(self, configs: Sequence[Config], problem: Problem, gpu: GpuInfo) -> NDArray[np.bool_]:
        columns = Columns.of(configs, self.product_length(problem), split=self.has_split_k)
        clusters = np.array([config.get("num_ctas", 1) for config in configs])
        needed = self.shared_memory(columns, problem, gpu) // clusters
        within: NDArray[np.bool_] = needed <= gpu.shared_memory_bytes
        return within | (not gpu.is_cuda)  # see ``impossible``

    def _shared_memory_bytes(self, config: Config, problem: Problem, gpu: GpuInfo | None) -> int:
        columns = Columns.one(config, self.product_length(problem))
        return int(self.shared_memory(columns, problem, gpu)) // config.get("num_ctas", 1)

    def product_length(self, problem: Problem) -> int:
        """Return the length of the product, in elements."""
        return problem.k

    def behind_table(self, problem: Problem) -> bool:
        """Say whether the weights' address is read from a table, which leaves their alignment unknown."""
        return problem.num_slices > 1

    def pipelined(self, c: Columns, problem: Problem) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Say where tiles of activations, and of weights, are copied while others are multiplied."""
        x = c.even_k & asynchronous(c.block_m * c.block_k, c, self.activation_bytes)
        # Of unknown alignment, nothing wider than an element is copied.
        w = c.even_k & asynchronous(c.block_n * c.block_k, c, WEIGHT_BYTES) & (not self.behind_table(problem))
        return x, w

    def shared_memory(self, c: Columns, problem: Problem, gpu: GpuInfo | None) -> Column:
        """Return a lower bound of the shared memory of each config, in bytes; without a GPU one that holds on all.

        A pipelined operand has a tile in flight for each stage but the one being multiplied, and with wgmma that
        one too, unless it passes through registers to be rounded. An operand that is not pipelined has one tile.
        """
        rounded = self.activation_bytes != WEIGHT_BYTES
        staged = c.num_stages > 1
        in_place = c.num_stages - staged * (1 - uses_wgmma(c, gpu))
        x_pipelined, w_pipelined = self.pipelined(c, problem)
        # Later GPUs can take a rounded operand that is not pipelined from elsewhere than shared memory.
        x_stays = not rounded or (gpu is not None and gpu.capability[0] <= HOPPER)
        x_tiles = 1 + x_pipelined * ((c.num_stages - staged if rounded else in_place) - 1)
        x_bytes = c.block_m * x_tiles * (x_stays | (x_pipelined & staged)) * self.activation_bytes
        w_bytes = c.block_n * (1 + w_pipelined * (in_place - 1)) * WEIGHT_BYTES
        return (x_bytes + w_bytes) * c.block_k

    @property
    def feature_names(self) -> tuple[str, ...]:
        return FEATURE_NAMES

    def features(self, configs: Sequence[Config], problem: Problem, gpu: GpuInfo) -> NDArray[np.float64]:
        length = self.product_length(problem)
        c = Columns.of(configs, length, split=self.has_split_k)
        work = self.work(c, problem)
        accumulators = c.block_m * c.block_n / (32 * c.num_warps)
        demand = register_demand(c, accumulators, table=self.behind_table(problem))
        shared = self.shared_memory(c, problem, gpu)
        occupancy = blocks_per_sm(c, shared, demand, gpu)
        waves = work.programs / (gpu.sm_count * occupancy)
        iterations = k_iterations(c, length)
        flops = 2 * c.block_m * c.block_n * c.block_k * iterations
        tile_bytes = (c.block_m * self.activation_bytes + c.block_n * WEIGHT_BYTES) * c.block_k * iterations
        output_bytes = c.block_m * c.block_n * self.output_bytes_per_element
        per_sm = np.maximum(work.programs / gpu.sm_count, 1.0)
        logarithmic = [c.block_m, c.block_n, c.block_k, c.split_k, c.num_warps, accumulators, demand, iterations]
        logarithmic += [shared / gpu.shared_memory_bytes, occupancy, occupancy * c.num_warps, work.programs, waves]
        logarithmic += [flops, tile_bytes + output_bytes, flops / (tile_bytes + output_bytes)]
        logarithmic += [per_sm * (tile_bytes + output_bytes), per_sm * output_bytes, per_sm * flops]
        m, n, k, split, warps, acc, need, iters, share, blocks, resident, programs, wave, *rest = np.log2(logarithmic)
        k_padding = 1 - length / (c.split_k * c.block_k * iterations)
        even = c.even_k.astype(np.float64)
        tile = [m, n, k, split, c.num_stages, warps, acc, need, even, iters]
        padding = [k_padding, work.m_padding, work.n_padding]
        return np.column_stack(
            [*tile, *padding, share, blocks, resident, programs, wave, waves / np.ceil(waves), *rest]
        )

    def work(self, c: Columns, problem: Problem) -> "Work":
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


@dataclass(frozen=True, slots=True)
class Work:
    """Programs of each config, and the share of their tiles that pads m and n."""

    programs: Column
    m_padding: Column
    n_padding: Column


def k_iterations(c: Columns, length: int) -> Column:
    """Return the tiles along k that the busiest program multiplies."""
    return np.ceil(length / (c.block_k * c.split_k))


def asynchronous(elements: Column, c: Columns, element_bytes: int) -> NDArray[np.bool_]:
    """Say where every thread has enough of a tile to copy it asynchronously."""
    return elements * element_bytes >= LEAST_ASYNC_BYTES * 32 * c.num_warps


def uses_wgmma(c: Columns, gpu: GpuInfo | None) -> NDArray[np.bool_]:
    """Say where tiles are multiplied straight from shared memory: on Hopper, by whole warp groups."""
    by_groups: NDArray[np.bool_] = (c.block_m >= WGMMA_ROWS) & (c.num_warps % WARPS_OF_A_GROUP == 0)
    return by_groups & (gpu is not None and gpu.is_cuda and gpu.capability[0] == HOPPER)


def register_demand(c: Columns, accumulators: Column, *, table: bool) -> Column:
    """Estimate the registers a thread would like to have: more than 255 spill.

    Accumulators, addresses, and the tiles on their way through registers where they are not copied asynchronously:
    both with a ragged k. Behind a table every single weight and output has an address of two registers.
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
