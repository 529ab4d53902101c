"""The compilers for one GPU, which need not be here: they answer questions about kernels and make binaries.

This process loads neither torch nor triton, so it asks the compilers about kernels, too. If an engine's own launcher
has to be run for each config, asking about thousands of them takes a third of a second. The compilers do it side by
side, and before the first compile they have nothing else to do.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config, ConfigRow, rows_of
from bo_tune.errors import DeviceError, WorkerError
from bo_tune.formats.pack.identity import Identity
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.compile.farm import CompileFarm
from bo_tune.measure.device import Build
from bo_tune.measure.source import default_config
from bo_tune.processes.worker import Call

ANSWER_TIMEOUT_S = 120.0
"""Time for a worker to answer, or to hash Triton's library, on a loaded machine."""

PART = 512
"""Configs that one compiler is asked about at once. Thousands are split, so that compilers answer side by side."""

DISTINCT_ANSWERS = 512
"""Answers that are remembered. The problems of a session share most of theirs."""

NAME_BYTES = 16
"""Length of a binary's name."""

Examples = Mapping[str, tuple[Problem, Config]]
"""A problem and a config for each kernel."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A kernel's answers about configs. Thousands are sent for each problem, so what they share is sent once.

    Attributes:
        names: parameters of the configs that really run, which may be more than were asked about.
        runs: the values of those parameters in that order, as 64-bit integers, one config after the other. Empty if
            every config runs as it is.
        binaries: the names of all configs' binaries, one after the other.
    """

    names: tuple[str, ...]
    runs: bytes
    binaries: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The kernel source cannot serve; the message is one line that says why."""

    message: str


def binary_name(key: Hashable) -> bytes:
    """Return a short name for a compile key (``Operation.compile_key``), the same in every process."""
    return hashlib.blake2b(repr(key).encode(), digest_size=NAME_BYTES).digest()


class Compilers:
    """Safe to use from several threads. Methods that ask about a kernel raise DeviceError if its source cannot serve.

    Args:
        farm: compiles, and numbers the binaries.
        gpu: the GPU to compile for.
    """

    def __init__(self, farm: CompileFarm, gpu: GpuInfo) -> None:
        self.farm, self.gpu, self.workers = farm, gpu, farm.activity.workers
        self._numbers: defaultdict[Problem, dict[ConfigRow, int]] = defaultdict(dict)
        self._numbers_of = lru_cache(DISTINCT_ANSWERS)(self._number_all)
        self._configs_of = lru_cache(DISTINCT_ANSWERS)(_configs)
        self._told = cache(self._ask)

    def kernel_source(self, kernel: str) -> str:
        """Return which code of a kernel is compiled."""
        source: str = self._told("source", kernel)
        return source

    def assembler(self) -> str:
        """Return which release of the vendor's assembler the compilers use."""
        identity: Identity = self._told("identity")
        return identity.toolchain.assembler

    def versions(self) -> Mapping[str, str]:
        """Return the versions of torch and Triton that compile."""
        versions: Mapping[str, str] = self._told("versions")
        return versions

    def identity(self, examples: Examples) -> Identity:
        """Return everything that the binaries of these kernels depend on."""
        identity: Identity = self._ask("identity", examples)
        return identity

    def note(self, problem: Problem) -> str | None:
        """Return a line about what tuning a kernel is good for, or None if there is nothing to say."""
        answer: str | None = self._ask("note", problem)
        return answer

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        """Name the kernels that decide for a problem's kernel (``Operation.decided_by``)."""
        answer: tuple[str, ...] = self._ask("decided_by", problem)
        return answer

    def default_config(self, spec: AnySpec, problem: Problem) -> dict[str, int]:
        """Return the config that runs on this GPU if nothing was tuned. Raises VllmError."""
        return default_config(self.farm.source, spec, problem, self.gpu)

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[Config]:
        """Return, for each config, the one that really runs: itself, or another."""
        names, parts = tuple(sorted(configs[0])), [configs[at : at + PART] for at in range(0, len(configs), PART)]
        rows = [tuple(rows_of(part)) for part in parts]
        answers: list[Facts] = self._ask_all([("facts", problem, names, part) for part in rows])
        found: list[Config] = []
        for part, of_part, answer in zip(parts, rows, answers, strict=True):
            self._numbers[problem].update(zip(of_part, self._numbers_of(answer.binaries), strict=True))
            found += self._configs_of(answer.names, answer.runs) if answer.runs else part
        return found

    def _number_all(self, names: bytes) -> list[int]:
        """Return the farm's numbers for binaries whose names are given one after the other."""
        return [self.farm.number(names[at : at + NAME_BYTES]) for at in range(0, len(names), NAME_BYTES)]

    def numbers(self, problem: Problem, configs: Sequence[Config]) -> list[int]:
        """Return the farm's number for each config's binary. Configs that share a binary have the same number."""
        if not configs:
            return []
        known, rows = self._numbers[problem], rows_of(configs)
        unknown = [config for config, row in zip(configs, rows, strict=True) if row not in known]
        if unknown:
            self.effective_configs(problem, unknown)
        return [known[row] for row in rows]

    def key(self, problem: Problem, config: Config) -> int:
        """Return the number of one config's binary."""
        (number,) = self.numbers(problem, [config])
        return number

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        """Start compiling, unless the binary exists or is being compiled."""
        return self.farm.submit(self.key(problem, config), problem, config)

    def withdraw(self, problem: Problem, config: Config) -> None:
        """Tell the farm that a caller no longer wants a binary that it asked for."""
        self.farm.withdraw(self.key(problem, config))

    def _ask(self, method: str, *arguments: object) -> Any:
        """Call a method of a ``compile.worker.Compiler``."""
        return self._ask_all([(method, *arguments)])[0]

    def _ask_all(self, calls: Sequence[Call]) -> list[Any]:
        """Call several methods, as many at once as compilers are idle."""
        try:
            answers = self.farm.ask_all(calls, ANSWER_TIMEOUT_S)
        except WorkerError as error:
            raise DeviceError(
                f"bo_tune cannot find out from the kernels of {self.farm.source} what they compile: {error}"
            ) from error
        for answer in answers:
            if isinstance(answer, Refused):
                raise DeviceError(answer.message)
        return answers


def _configs(names: Sequence[str], values: bytes) -> list[Config]:
    """Return configs from their values, which are given one after the other."""
    rows = np.frombuffer(values, dtype=np.int64).reshape(-1, len(names)).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]
