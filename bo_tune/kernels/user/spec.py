"""A user's kernel as a search knows it before anything is compiled."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, Problem, SizedProblem
from bo_tune.core.space import Config, ConfigKey, SearchSpace
from bo_tune.errors import InputError
from bo_tune.kernels.spec import LAUNCH_OPTIONS, KernelSpec
from bo_tune.kernels.user.callable import Operation
from bo_tune.kernels.user.definition import Definition, Params
from bo_tune.kernels.user.values import Values

if TYPE_CHECKING:
    from bo_tune.kernels.user.operation import UserCallable

THREADS_OF_A_WARP = 32
DEFAULT_WARPS = 4
"""Triton's number of warps if none is set."""

TILE_WORDS = ("BLOCK", "TILE")
"""Words in the names of parameters that are sides of a tile."""

GRID_FEATURES = ("log2 programs", "log2 waves", "last wave fill")
LAUNCH_FEATURES = ("launches", "log2 most programs", "last wave fill")
MOST_LAUNCHED = 4096
"""Configs of a space up to which all launches of an operation are found out, once a search. On a busy CPU that took
0.5 ms a config for ``examples/split_k.py`` and 1.3 ms for ``examples/layer_norm.py``."""

TILE_FEATURES = ("log2 tile", "log2 tile per thread", "log2 staged tile")


class UserSpec(KernelSpec[SizedProblem]):
    """A user's kernel or operation, tuned on problems with sizes of these names."""

    is_generic = True

    def __init__(self, kernel: Definition, sizes: frozenset[str]) -> None:
        self.name = kernel.name
        self.kernel, self._sizes = kernel, sizes
        self._default = lru_cache(maxsize=1024)(self._default_config)

    @cached_property
    def search_space(self) -> SearchSpace:
        return SearchSpace.of({name: tuple(v.numbers.values()) for name, v in self.kernel.values.items()})

    def default_config(self, problem: SizedProblem) -> dict[str, int]:
        return dict(self._default(problem))

    def _default_config(self, problem: SizedProblem) -> ConfigKey:
        params = self.kernel.default_params(problem)
        if not self.kernel.allows(problem, params):
            raise InputError(f"{self.name}: the default config is not valid for {problem}: {dict(params)}")
        config = self.kernel.encode(params, "default")
        return tuple(config.items())

    def allows(self, config: Config, problem: SizedProblem) -> bool:
        return self.kernel.allows(problem, self.kernel.decode(config))

    def understands(self, config: Config, problem: Problem) -> bool:
        known = self.kernel.values
        alike = isinstance(problem, SizedProblem) and {name for name, _ in problem.sizes} == self._sizes
        return alike and set(config) == set(known) and all(known[name].has(n) for name, n in config.items())

    @property
    def feature_names(self) -> tuple[str, ...]:
        of_values = [name for values in self.kernel.values.values() for name in _column_names(values)]
        return (*of_values, *self._names_of_launches, *TILE_FEATURES, *self.kernel.features)

    @property
    def _names_of_launches(self) -> tuple[str, ...]:
        if self.kernel.is_gridded:
            return GRID_FEATURES
        return () if self._launching is None else LAUNCH_FEATURES

    def features(self, configs: Sequence[Config], problem: SizedProblem, gpu: GpuInfo) -> NDArray[np.float64]:
        rows = [self._row(config, problem, gpu) for config in configs]
        return np.array(rows, dtype=np.float64).reshape(len(configs), len(self.feature_names))

    def _row(self, config: Config, problem: SizedProblem, gpu: GpuInfo) -> list[float]:
        params = self.kernel.decode(config)
        row = [column for name, values in self.kernel.values.items() for column in _columns(values, params[name])]
        row += self._of_launches(config, params, problem, gpu)
        tile = float(np.prod([float(params[name]) for name in self._tile_sides]))
        threads = THREADS_OF_A_WARP * float(params.get("num_warps", DEFAULT_WARPS))
        staged = tile * float(params.get("num_stages", 1))
        row += [np.log2(tile), np.log2(tile / threads), np.log2(staged)]
        row += [self.kernel.feature(name, problem, params) for name in self.kernel.features]
        return row

    def _of_launches(self, config: Config, params: Params, problem: SizedProblem, gpu: GpuInfo) -> list[float]:
        """Describe how a config fills the GPU, by its grid; of an operation, by that of its largest launch."""
        if self.kernel.is_gridded:
            programs = float(np.prod(self.kernel.programs(problem, params)))
            return [np.log2(programs), np.log2(programs / gpu.sm_count), _fill(programs, gpu)]
        if self._launching is None:
            return []
        launched = self._launching.programs(problem, config, gpu)
        most = float(max(launched, default=0) or 1)
        return [float(len(launched)), np.log2(most), _fill(most, gpu)]

    @cached_property
    def _launching(self) -> "UserCallable | None":
        """What finds out the launches of an operation; None for a kernel, and for a huge space."""
        if not isinstance(self.kernel, Operation) or len(self.search_space) > MOST_LAUNCHED:
            return None
        # This imports torch and triton. Whoever wrote the operation has imported them already.
        from bo_tune.kernels.user.operation import UserCallable  # noqa: PLC0415

        return UserCallable(self.kernel, Path())

    @cached_property
    def _tile_sides(self) -> tuple[str, ...]:
        """Parameters that are sides of a tile: by their names, or else all integers except launch options."""
        whole = [
            name for name, values in self.kernel.values.items() if not values.is_coded and name not in LAUNCH_OPTIONS
        ]
        named = [name for name in whole if any(word in name.upper() for word in TILE_WORDS)]
        return tuple(named or whole)


def _fill(programs: float, gpu: GpuInfo) -> float:
    """Return which share of the GPU the last wave of programs fills."""
    waves = programs / gpu.sm_count
    return float(waves / np.ceil(waves))


def _column_names(values: Values) -> list[str]:
    return [values.name] if values.is_ordered else [f"{values.name} {value}" for value in values.values]


def _columns(values: Values, value: object) -> list[float]:
    """Describe a value by columns: a number by itself, or by its logarithm if all are positive; others one-hot."""
    if not values.is_ordered:
        return [float(value == other and type(value) is type(other)) for other in values.values]
    assert isinstance(value, (int, float))
    logarithmic = value > 0 and all(isinstance(v, (int, float)) and v > 0 for v in values.values)
    return [float(np.log2(value)) if logarithmic else float(value)]
