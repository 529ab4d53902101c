"""What measures: a CUDA device or a recording, behind one small interface."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bo_tune.kernels.spec import KernelSpec
from bo_tune.outcome import Compilation, Invalid, Outcome, Resources
from bo_tune.problem import GpuInfo, Problem
from bo_tune.space import Config, SearchSpace


@dataclass(frozen=True, slots=True)
class Compiled:
    """A config whose binary exists, not yet loaded."""

    compilation: Compilation
    resources: Resources


Build = Compiled | Invalid
"""What came of compiling a config."""


class Device(ABC):
    """Compiles and measures configs of the problems of one GPU. Safe to use from several threads."""

    gpu: GpuInfo

    @property
    @abstractmethod
    def provenance(self) -> Mapping[str, str]:
        """What measured: driver, torch and triton versions, as far as they are known."""

    @abstractmethod
    def kernel_source(self, kernel: str) -> str:
        """Which code of a kernel is measured."""

    @abstractmethod
    def search_space(self, spec: KernelSpec, problem: Problem) -> SearchSpace:
        """The grid when the user changes nothing."""

    @abstractmethod
    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[dict[str, int]]:
        """Return for each config the one that really runs. Equal ones are measured once."""

    @abstractmethod
    def has_binary(self, problem: Problem, configs: Sequence[Config]) -> NDArray[np.bool_]:
        """Say of each config whether its binary exists already, ``[len(configs)]``."""

    @abstractmethod
    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling; the result says whether there is something to measure."""

    @abstractmethod
    def measure(self, problem: Problem, config: Config, compiled: Compiled, *, stop_above_us: float | None) -> Outcome:
        """Check and time a compiled config; ``stop_above_us`` is the incumbent's time."""

    @abstractmethod
    def remeasure(self, problem: Problem, configs: Sequence[Config], rounds: int) -> list[tuple[float, ...]]:
        """Time configs in turn, ``rounds`` times; returns each one's repetitions in us."""

    def close(self) -> None:
        """Give back processes and memory."""
        return
