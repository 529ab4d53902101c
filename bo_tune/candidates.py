"""Which configs of a search space a study may try, and why the others are left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bo_tune.kernels.spec import KernelSpec
from bo_tune.problem import AnyProblem, GpuInfo
from bo_tune.space import Config, ConfigKey, SearchSpace, config_key

NOT_ALLOWED = "not allowed by the kernel"
IDENTICAL = "identical to another config"
IMPOSSIBLE = "cannot run on this GPU"
HOPELESS = "not worth compiling"


class Asked(Protocol):
    """What is asked about configs: a device, or a GPU that is only compiled for."""

    @property
    def gpu(self) -> GpuInfo:
        """The GPU."""

    def effective_configs(self, problem: AnyProblem, configs: Sequence[Config]) -> list[Config]:
        """Return for each config the one that really runs."""


@dataclass(frozen=True)
class Candidates:
    """The configs a study may try, in the order of the grid.

    Attributes:
        mask: which configs of the space they are, ``[len(space)]``.
        excluded: how many configs were left out before any trial, by reason.
        twins: configs left out as identical, each with the candidate that stands for it.
    """

    space: SearchSpace
    mask: NDArray[np.bool_]
    excluded: Mapping[str, int]
    twins: Mapping[ConfigKey, ConfigKey]

    @cached_property
    def keys(self) -> frozenset[ConfigKey]:
        """Their keys."""
        return frozenset(compress(self.space.keys, self.mask.tolist()))

    @property
    def configs(self) -> tuple[dict[str, int], ...]:
        """The configs themselves, made anew each time: a session has dozens of studies, of thousands each."""
        return tuple(compress(self.space, self.mask.tolist()))

    def __contains__(self, config: object) -> bool:
        return isinstance(config, Mapping) and config_key(config) in self.keys

    def __len__(self) -> int:
        return len(self.keys)


def candidates(
    spec: KernelSpec, problem: AnyProblem, space: SearchSpace, device: Asked, *, exhaustive: bool
) -> Candidates:
    """Drop what the kernel does not allow, what cannot run, what the target makes identical to another config and,
    unless the search is exhaustive, what is not worth compiling.

    Of identical configs the first stands for all, or the default config, on the grid or off it: it is tried anyway.
    """
    excluded: Counter[str] = Counter()
    twins: dict[ConfigKey, ConfigKey] = {}
    chosen: dict[ConfigKey, int] = {}
    default = spec.default_config(problem)
    allowed = [(index, config) for index, config in enumerate(space) if spec.allows(config, problem)]
    excluded.update({NOT_ALLOWED: len(space) - len(allowed)} if len(allowed) < len(space) else {})
    default_effective, *effective = device.effective_configs(problem, [default, *(config for _, config in allowed)])
    default_runs = config_key(default_effective)
    runnable = spec.runnable(effective, problem, device.gpu)
    keys, default_key = space.keys, config_key(default)
    for (index, config), found, can_run in zip(allowed, effective, runnable.tolist(), strict=True):
        key = keys[index]
        runs = key if found is config else config_key(found)
        if runs == default_runs and key != default_key:
            excluded[IDENTICAL] += 1
            twins[key] = default_key
        elif runs in chosen:
            excluded[IDENTICAL] += 1
            twins[key] = keys[chosen[runs]]
        elif not can_run:
            excluded[IMPOSSIBLE] += 1
        elif not exhaustive and spec.hopeless(config):
            excluded[HOPELESS] += 1
        else:
            chosen[runs] = index
    mask = np.zeros(len(space), dtype=bool)
    mask[list(chosen.values())] = True
    return Candidates(space, mask, dict(excluded), twins)
