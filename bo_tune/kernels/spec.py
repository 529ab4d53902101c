"""What is known of a kernel without a GPU: its search space, default config, constraints, features and keys.

``KernelSpec`` is what a search needs of any kernel, ``EngineSpec`` what more there is to a kernel whose configs an
engine looks up in tuned files.

A kernel of the project is a package: ``spec.py`` (this interface; imports neither torch nor triton), ``inputs.py``
(tensors, reference, tolerance), ``naive.py`` (the reference's arithmetic) and ``op.py``, or one for each of several
(the project's own Triton code, and how it is launched). ``kernels.vllm`` launches an installed vLLM's code instead,
``kernels.user`` a user's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Asked, GpuInfo, LoraProblem
from bo_tune.core.space import Config, SearchSpace

if TYPE_CHECKING:  # a kernel's name and default config are asked for where nothing is computed
    import numpy as np
    from numpy.typing import NDArray

LAUNCH_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
"""What a config may set besides the kernel's own parameters."""

MAX_ACCUMULATORS_PER_THREAD = 256
"""At this many float32 accumulators per thread a config was never within 1.9x of the best (18 recorded grids),
and nearly every compile timeout lies there."""


class KernelSpec(ABC, Generic[Asked]):
    """What a search knows of one kernel before anything is compiled."""

    name: str

    power_of_two: ClassVar[frozenset[str]] = frozenset()
    """Parameters whose values Triton needs to be powers of two."""

    launches: ClassVar[int] = 1
    """Launches that are one config, each with a binary of its own."""

    decides: ClassVar[bool] = False
    """Whether an engine launches it in place of the others of its joint group: what it measures decides on ``SHARED``
    for all of them."""

    measured_whole: ClassVar[bool] = False
    """Whether its configs are so few that a search measures them all, as far as its budget goes, however sure it is."""

    def joint_group(self, problem: Asked) -> tuple[object, ...] | None:
        """Equal for the problems of kernels that are launched one after the other and must agree on ``SHARED``.

        None for a kernel that stands alone.
        """
        return None

    @property
    @abstractmethod
    def search_space(self) -> SearchSpace:
        """The default grid."""

    def product_sizes(self, problem: Asked, conditions: Conditions) -> dict[str, int | str]:
        """Return what a recording says of the shape of the product beyond the problem; nothing where that says all."""
        return {}

    @abstractmethod
    def default_config(self, problem: Asked) -> dict[str, int]:
        """The baseline: what runs where nothing was tuned. It need not lie on the grid."""

    def rivals(self, problem: Asked) -> Sequence[Config]:
        """Return what else an engine may run where nothing was tuned: tried next to the default, before all others."""
        return ()

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of ``features``."""

    @abstractmethod
    def features(self, configs: Sequence[Config], problem: Asked, gpu: GpuInfo) -> "NDArray[np.float64]":
        """Describe configs by what can be computed before compiling.

        Returns:
            Array ``[len(configs), len(feature_names)]``, comparable across problems and GPUs of this kernel.
        """

    def speaks_of(self, config: Config, problem: Asked) -> bool:
        """Say whether a stored trial is of the kernel as it is known here, so that its features can be computed."""
        return True

    def allows(self, config: Config, problem: Asked) -> bool:
        """Say whether the kernel's author allows a config. Holds for exhaustive searches too."""
        return True

    def impossible(self, config: Config, problem: Asked, gpu: GpuInfo) -> str | None:
        """Say why a config cannot run on this GPU, or None. Holds for exhaustive searches too."""
        return None

    def runnable(self, configs: Sequence[Config], problem: Asked, gpu: GpuInfo) -> "NDArray[np.bool_] | Sequence[bool]":
        """Say of each config whether nothing makes it ``impossible``: of thousands at once, for kernels that can.

        Returns:
            As many as there are configs.
        """
        return [self.impossible(config, problem, gpu) is None for config in configs]

    def hopeless(self, config: Config) -> str | None:
        """Say why a config is not worth compiling though it may run, or None. A search skips it, a grid does not."""
        return None


AnySpec = KernelSpec[Any]
"""The spec of a kernel of whatever kind of problem."""


class EngineSpec(KernelSpec[LoraProblem]):
    """A kernel that multiplies tiles, and whose config an engine looks up in tuned files."""

    power_of_two = frozenset({"block_m", "block_n", "block_k", "num_warps", "num_ctas"})

    table_level_i: ClassVar[bool] = False
    """Whether the kernel's JSON has the sixth level, i."""

    @abstractmethod
    def file_stem(self, problem: LoraProblem) -> str:
        """What follows the GPU's name in the file name, for example ``SHRINK``."""

    @abstractmethod
    def table_key(self, problem: LoraProblem) -> tuple[str, ...]:
        """The nested keys under which the engine looks the problem up, outermost first."""

    def hopeless(self, config: Config) -> str | None:
        accumulators = config["block_m"] * config["block_n"] / (32 * config["num_warps"])
        if accumulators >= MAX_ACCUMULATORS_PER_THREAD:
            return f"{accumulators:.0f} accumulators per thread"
        return None
