"""What is known of a kernel without a GPU: its search space, default config, constraints, features and keys.

A kernel is a package of four files: ``spec.py`` (this interface; imports neither torch nor triton), ``inputs.py``
(tensors, reference, tolerance), ``naive.py`` (the reference's arithmetic) and ``op.py`` (the project's own Triton code
and how it is launched, see ``kernels.operation``). ``kernels.vllm`` launches an installed vLLM's code instead.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bo_tune.conditions import Conditions
from bo_tune.problem import GpuInfo, Problem
from bo_tune.space import Config, SearchSpace

MAX_ACCUMULATORS_PER_THREAD = 256
"""At this many float32 accumulators per thread a config was never within 1.9x of the best (18 recorded grids),
and nearly every compile timeout lies there."""


SHARED = "block_m"
"""The parameter that the kernels of a joint group must agree on: tokens are sorted into blocks once for all of them."""


class KernelSpec(ABC):
    """What is known of one kernel before anything is compiled."""

    name: ClassVar[str]
    power_of_two: ClassVar[frozenset[str]] = frozenset({"block_m", "block_n", "block_k", "num_warps", "num_ctas"})
    """Parameters whose values Triton needs to be powers of two."""

    table_level_i: ClassVar[bool] = False
    """Whether the kernel's JSON has the sixth level, i."""

    def product_sizes(self, problem: Problem, conditions: Conditions) -> dict[str, int | str]:
        """Return what a recording says of the shape of the product beyond the problem; nothing where that says all."""
        return {}

    def joint_group(self, problem: Problem) -> tuple[object, ...] | None:
        """Equal for the problems of kernels that are launched one after the other and must agree on ``SHARED``.

        None for a kernel that stands alone.
        """
        return None

    @property
    @abstractmethod
    def search_space(self) -> SearchSpace:
        """The default grid."""

    @abstractmethod
    def default_config(self, problem: Problem) -> dict[str, int]:
        """The config vLLM takes when no file is found: the baseline. It need not lie on the grid."""

    @abstractmethod
    def file_stem(self, problem: Problem) -> str:
        """What follows the GPU's name in the file name, for example ``SHRINK``."""

    @abstractmethod
    def table_key(self, problem: Problem) -> tuple[str, ...]:
        """The nested keys under which the engine looks the problem up, outermost first."""

    @abstractmethod
    def shared_memory_bytes(self, config: Config, problem: Problem) -> int:
        """Shared memory the binary needs, in bytes, as far as it can be told before compiling: a lower bound."""

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of ``features``."""

    @abstractmethod
    def features(self, configs: Sequence[Config], problem: Problem, gpu: GpuInfo) -> NDArray[np.float64]:
        """Describe configs by what can be computed before compiling.

        Returns:
            Array ``[len(configs), len(feature_names)]``, comparable across problems and GPUs of this kernel.
        """

    def accumulators_per_thread(self, config: Config) -> float:
        """Float32 accumulators each thread holds."""
        return config["block_m"] * config["block_n"] / (32 * config["num_warps"])

    def impossible(self, config: Config, problem: Problem, gpu: GpuInfo) -> str | None:
        """Say why a config cannot run on this GPU, or None. Holds for exhaustive searches too."""
        needed = self.shared_memory_bytes(config, problem)
        if needed > gpu.shared_memory_bytes:
            return f"needs {needed} B of shared memory of {gpu.shared_memory_bytes} B"
        return None

    def hopeless(self, config: Config) -> str | None:
        """Say why a config is not worth compiling though it may run, or None. A search skips it, a grid does not."""
        accumulators = self.accumulators_per_thread(config)
        if accumulators >= MAX_ACCUMULATORS_PER_THREAD:
            return f"{accumulators:.0f} accumulators per thread"
        return None
