"""Selects the configs of a search space that a study may try, and says why the others are left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import compress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config, ConfigKey, ConfigRow, SearchSpace, config_key, rows_of
from bo_tune.kernels.spec import AnySpec

NOT_ALLOWED = "not allowed by the kernel"
IDENTICAL = "identical to another config"
IMPOSSIBLE = "cannot run on this GPU"
HOPELESS = "not worth compiling"

DISTINCT_CANDIDATES = 32
"""Candidates that are remembered. The problems of a session differ in few of the things that decide on them."""


class Asked(Protocol):
    """Answers questions about configs: a device, or a GPU that is only compiled for."""

    @property
    def gpu(self) -> GpuInfo:
        """The GPU."""

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """Return the baseline: the config that runs on the GPU if nothing was tuned."""

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[Config]:
        """Return, for each config, the one that really runs."""


@dataclass(frozen=True)
class Candidates:
    """The configs that a study may try, in the order of the grid.

    Attributes:
        mask: which configs of the space are candidates, ``[len(space)]``.
        excluded: how many configs were left out before any trial, by reason.
        twins: configs left out as identical, each with the candidate that stands for it.
    """

    space: SearchSpace
    mask: NDArray[np.bool_]
    excluded: Mapping[str, int]
    twins: Mapping[ConfigKey, ConfigKey]

    @cached_property
    def keys(self) -> frozenset[ConfigKey]:
        """The candidates' keys."""
        return frozenset(compress(self.space.keys, self.mask.tolist()))

    @property
    def configs(self) -> tuple[dict[str, int], ...]:
        """The configs, created at each call: a session has dozens of studies with thousands of configs each."""
        return tuple(compress(self.space, self.mask.tolist()))

    def representative_of(self, config: Config) -> dict[str, int]:
        """Return the candidate that the target makes identical to a config, or else the config itself."""
        key = config_key(config)
        return dict(self.twins.get(key, key))

    def __contains__(self, config: object) -> bool:
        return isinstance(config, Mapping) and config_key(config) in self.keys

    def __len__(self) -> int:
        return len(self.keys)


def candidates(spec: AnySpec, problem: Problem, space: SearchSpace, device: Asked, *, exhaustive: bool) -> Candidates:
    """Return the configs of a space that a study may try.

    This drops configs that the kernel does not allow, that cannot run, or that the target makes identical to another
    config. Unless the search is exhaustive, it also drops those that are not worth compiling.

    Of identical configs, the first stands for all. But if the default config is one of them, it stands for all, on the
    grid or off it, since it is tried anyway.
    """
    configs, default = list(space), device.default_config(spec, problem)
    allowed = np.array([spec.allows(config, problem) for config in configs], dtype=bool)
    running = device.effective_configs(problem, [default, *compress(configs, allowed.tolist())])
    runnable = np.zeros(len(configs), dtype=bool)
    runnable[allowed] = spec.runnable(running[1:], problem, device.gpu)
    hopeless = bytes(len(configs)) if exhaustive else _hopeless(spec, space)
    masks = allowed.tobytes(), runnable.tobytes(), hopeless
    return _sifted(space, config_key(default), tuple(rows_of(running)), *masks)


@lru_cache(DISTINCT_CANDIDATES)
def _hopeless(spec: AnySpec, space: SearchSpace) -> bytes:
    """Say of each config of a space whether it is not worth compiling: 1 or 0, ``[len(space)]``."""
    return bytes(spec.hopeless(config) is not None for config in space)


@lru_cache(DISTINCT_CANDIDATES)
def _sifted(
    space: SearchSpace,
    default: ConfigKey,
    running: Sequence[ConfigRow],
    allowed: bytes,
    runnable: bytes,
    hopeless: bytes,
) -> Candidates:
    """Return the candidates, given what is known of each config of the space.

    Args:
        default: the default config.
        running: the configs that really run: first for the default config, then for each config that the kernel allows.
        allowed: 1 for each config that the kernel allows, ``[len(space)]``. ``runnable`` and ``hopeless`` are alike.
    """
    excluded: Counter[str] = Counter()
    twins: dict[ConfigKey, ConfigKey] = {}
    chosen: dict[ConfigRow, int] = {}
    keys, left = space.keys, iter(running)
    default_runs = next(left)
    for place, key in enumerate(keys):
        if not allowed[place]:
            excluded[NOT_ALLOWED] += 1
            continue
        runs = next(left)
        if runs == default_runs and key != default:
            excluded[IDENTICAL] += 1
            twins[key] = default
        elif runs in chosen:
            excluded[IDENTICAL] += 1
            twins[key] = keys[chosen[runs]]
        elif not runnable[place]:
            excluded[IMPOSSIBLE] += 1
        elif hopeless[place]:
            excluded[HOPELESS] += 1
        else:
            chosen[runs] = place
    mask = np.zeros(len(space), dtype=bool)
    mask[list(chosen.values())] = True
    return Candidates(space, mask, dict(excluded), twins)
