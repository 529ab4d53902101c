"""Facts about a kernel that need no GPU: its search space, default config, constraints, features and keys.

``KernelSpec`` is what a search needs of any kernel. ``EngineSpec`` adds what is needed if an engine looks up the
kernel's configs in tuned files.

A kernel of the project is a package: ``spec.py`` (this interface; imports neither torch nor triton), ``inputs.py``
(tensors, reference, tolerance), ``naive.py`` (the reference's arithmetic), and the project's own Triton code with its
launch in ``op.py``, or in one file per kernel if there are several. ``kernels.vllm`` launches the code of an installed
vLLM instead, ``kernels.user`` that of a user.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Asked, GpuInfo, LoraProblem
from bo_tune.core.space import Config, SearchSpace

if TYPE_CHECKING:  # programs that compute nothing ask for a kernel's name and default config
    import numpy as np
    from numpy.typing import NDArray

LAUNCH_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
"""Options that a config may set besides the kernel's own parameters."""

MAX_ACCUMULATORS_PER_THREAD = 256
"""With this many float32 accumulators per thread, no config came within 1.9x of the best (18 recorded grids). Nearly
every compile timeout lies there too."""


class KernelSpec(ABC, Generic[Asked]):
    """One kernel as a search knows it before anything is compiled."""

    name: str

    power_of_two: ClassVar[frozenset[str]] = frozenset()
    """Parameters that Triton needs to be powers of two."""

    launches: ClassVar[int] = 1
    """Number of launches that make up one config. Each has its own binary."""

    decides: ClassVar[bool] = False
    """Whether an engine launches this kernel in place of the others of its joint group. If so, its measurements decide
    on ``SHARED`` for all of them."""

    is_generic: ClassVar[bool] = False
    """Whether its features would describe any kernel, so that certificates are to be more cautious."""

    measured_whole: ClassVar[bool] = False
    """Whether a search measures all configs, within its budget, however sure it is. For kernels with few configs."""

    def joint_group(self, problem: Asked) -> tuple[object, ...] | None:
        """Return a key that the kernels share which run one after the other and must agree on ``SHARED``.

        None for a kernel that stands alone.
        """
        return None

    @property
    @abstractmethod
    def search_space(self) -> SearchSpace:
        """The default grid."""

    def product_sizes(self, problem: Asked, conditions: Conditions) -> dict[str, int | str]:
        """Return sizes of the product for a recording, as far as the problem does not give them; often empty."""
        return {}

    @abstractmethod
    def default_config(self, problem: Asked) -> dict[str, int]:
        """Return the baseline: the config that runs if nothing was tuned. It need not lie on the grid."""

    def rivals(self, problem: Asked) -> Sequence[Config]:
        """Return other configs that an engine may run if nothing was tuned. They are tried right after the default."""
        return ()

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of ``features``."""

    @abstractmethod
    def features(self, configs: Sequence[Config], problem: Asked, gpu: GpuInfo) -> "NDArray[np.float64]":
        """Describe configs by values that can be computed before compiling.

        Returns:
            Array ``[len(configs), len(feature_names)]``, comparable across problems and GPUs of this kernel.
        """

    def understands(self, config: Config, problem: Asked) -> bool:
        """Say whether a stored trial fits this version of the kernel, so that its features can be computed."""
        return True

    def allows(self, config: Config, problem: Asked) -> bool:
        """Say whether the kernel's author allows a config. Exhaustive searches respect this too."""
        return True

    def impossible(self, config: Config, problem: Asked, gpu: GpuInfo) -> str | None:
        """Say why a config cannot run on this GPU, or None. Exhaustive searches respect this too."""
        return None

    def runnable(self, configs: Sequence[Config], problem: Asked, gpu: GpuInfo) -> "NDArray[np.bool_] | Sequence[bool]":
        """Say for each config whether ``impossible`` is None. A kernel may answer for thousands at once.

        Returns:
            One value per config.
        """
        return [self.impossible(config, problem, gpu) is None for config in configs]

    def hopeless(self, config: Config) -> str | None:
        """Say why a config is not worth compiling though it may run, or None. A search skips it; a grid does not."""
        return None


AnySpec = KernelSpec[Any]
"""The spec of a kernel, for any kind of problem."""


class EngineSpec(KernelSpec[LoraProblem]):
    """A kernel that multiplies tiles, and for which an engine looks up configs in tuned files."""

    power_of_two = frozenset({"block_m", "block_n", "block_k", "num_warps", "num_ctas"})

    table_level_i: ClassVar[bool] = False
    """Whether the kernel's JSON has the sixth level, i."""

    @abstractmethod
    def file_stem(self, problem: LoraProblem) -> str:
        """Return the part of the file name after the GPU's name, for example ``SHRINK``."""

    @abstractmethod
    def table_key(self, problem: LoraProblem) -> tuple[str, ...]:
        """Return the nested keys under which the engine looks up the problem, outermost first."""

    def hopeless(self, config: Config) -> str | None:
        accumulators = config["block_m"] * config["block_n"] / (32 * config["num_warps"])
        if accumulators >= MAX_ACCUMULATORS_PER_THREAD:
            return f"{accumulators:.0f} accumulators per thread"
        return None
