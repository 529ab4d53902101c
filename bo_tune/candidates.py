"""Which configs of a search space a study may try, and why the others are left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bo_tune.kernels.spec import KernelSpec
from bo_tune.problem import GpuInfo, Problem
from bo_tune.space import Config, ConfigKey, SearchSpace, config_key

IDENTICAL = "identical to another config"
IMPOSSIBLE = "cannot run on this GPU"
HOPELESS = "not worth compiling"


class Asked(Protocol):
    """What is asked about configs: a device, or a GPU that is only compiled for."""

    @property
    def gpu(self) -> GpuInfo:
        """The GPU."""

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[dict[str, int]]:
        """Return for each config the one that really runs."""


@dataclass(frozen=True)
class Candidates:
    """The configs a study may try, in the order of the grid.

    Attributes:
        excluded: how many configs were left out before any trial, by reason.
        twins: configs left out as identical, each with the candidate that stands for it.
    """

    space: SearchSpace
    configs: Sequence[dict[str, int]]
    excluded: Mapping[str, int]
    twins: Mapping[ConfigKey, ConfigKey]
    keys: frozenset[ConfigKey] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", frozenset(config_key(c) for c in self.configs))

    def __contains__(self, config: object) -> bool:
        return isinstance(config, Mapping) and config_key(config) in self.keys

    def __len__(self) -> int:
        return len(self.configs)


def candidates(
    spec: KernelSpec, problem: Problem, space: SearchSpace, device: Asked, *, exhaustive: bool
) -> Candidates:
    """Drop what cannot run, what the target makes identical to another config and, unless the search is
    exhaustive, what is not worth compiling.

    Of identical configs the first stands for all, or the default config, on the grid or off it: it is tried anyway.
    """
    excluded: Counter[str] = Counter()
    twins: dict[ConfigKey, ConfigKey] = {}
    chosen: dict[ConfigKey, dict[str, int]] = {}
    default = spec.default_config(problem)
    configs = list(space)
    default_runs, *all_run = map(config_key, device.effective_configs(problem, [default, *configs]))
    for config, runs in zip(configs, all_run, strict=True):
        if runs == default_runs and config != default:
            excluded[IDENTICAL] += 1
            twins[config_key(config)] = config_key(default)
        elif runs in chosen:
            excluded[IDENTICAL] += 1
            twins[config_key(config)] = config_key(chosen[runs])
        elif spec.impossible(dict(runs), problem, device.gpu):
            excluded[IMPOSSIBLE] += 1
        elif not exhaustive and spec.hopeless(config):
            excluded[HOPELESS] += 1
        else:
            chosen[runs] = config
    return Candidates(space, tuple(chosen.values()), dict(excluded), twins)
