"""What kernels make of configs on a GPU, asked from the compilers: this process loads neither torch nor triton.

Asking a kernel about thousands of configs takes a third of a second where an engine's own launcher has to be run for
each. The compilers do it side by side, and before the first compile they have nothing else to do.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config, ConfigRow, rows_of
from bo_tune.errors import DeviceError, WorkerError
from bo_tune.measure.compile.farm import CompileFarm
from bo_tune.measure.messages import (
    NAME_BYTES,
    DecidedByRequest,
    FactsAnswer,
    FactsRequest,
    IdentityAnswer,
    IdentityRequest,
    NoteRequest,
    Refused,
    SourceRequest,
)

ANSWER_TIMEOUT_S = 120.0


DISTINCT_ANSWERS = 64
"""Answers that are remembered. The problems of a session share most of theirs."""


def binary_name(key: Hashable) -> bytes:
    """Return a short name of a compile key (``Operation.compile_key``), the same in every process."""
    return hashlib.blake2b(repr(key).encode(), digest_size=NAME_BYTES).digest()


class KernelFacts:
    """What the kernels of one source make of configs on one GPU. Safe to use from several threads.

    Args:
        farm: whose compilers are asked; it numbers the binaries.
    """

    def __init__(self, farm: CompileFarm, gpu: GpuInfo) -> None:
        self._farm, self._gpu = farm, gpu
        self._numbers: defaultdict[Problem, dict[ConfigRow, int]] = defaultdict(dict)
        self._numbers_of = lru_cache(DISTINCT_ANSWERS)(self._number_all)
        self._configs_of = lru_cache(DISTINCT_ANSWERS)(_configs)
        self.source = cache(self._source)
        self.assembler = cache(self._assembler)

    def _source(self, kernel: str) -> str:
        """Which code of a kernel is compiled. Raises DeviceError."""
        answer: str = self._ask(SourceRequest(kernel))
        return answer

    def _assembler(self) -> str:
        """Which release of the vendor's assembler the compilers use. Raises DeviceError."""
        answer: IdentityAnswer = self._ask(IdentityRequest({}))
        return answer.toolchain.assembler

    def effective_configs(self, problem: Problem, configs: Sequence[Config]) -> list[Config]:
        """Return for each config the one that really runs: itself, or another. Raises DeviceError."""
        names, rows = tuple(sorted(configs[0])), rows_of(configs)
        answer: FactsAnswer = self._ask(FactsRequest(problem, names, tuple(rows), self._gpu))
        self._numbers[problem].update(zip(rows, self._numbers_of(answer.binaries), strict=True))
        return list(self._configs_of(answer.names, answer.runs) if answer.runs else configs)

    def _number_all(self, names: bytes) -> list[int]:
        """Return the numbers in the farm of binaries whose names stand one after the other."""
        return [self._farm.number(names[at : at + NAME_BYTES]) for at in range(0, len(names), NAME_BYTES)]

    def note(self, problem: Problem) -> str | None:
        """Return a line on what tuning a kernel is good for, if there is anything to say. Raises DeviceError."""
        answer: str | None = self._ask(NoteRequest(problem, self._gpu))
        return answer

    def decided_by(self, problem: Problem) -> tuple[str, ...]:
        """Name the kernels that decide for a problem's (``Operation.decided_by``). Raises DeviceError."""
        answer: tuple[str, ...] = self._ask(DecidedByRequest(problem, self._gpu))
        return answer

    def numbers(self, problem: Problem, configs: Sequence[Config]) -> list[int]:
        """Return the number in the farm of each config's binary. Raises DeviceError."""
        if not configs:
            return []
        known, rows = self._numbers[problem], rows_of(configs)
        unknown = [config for config, row in zip(configs, rows, strict=True) if row not in known]
        if unknown:
            self.effective_configs(problem, unknown)
        return [known[row] for row in rows]

    def _ask(self, request: object) -> Any:
        try:
            answer = self._farm.ask(request, ANSWER_TIMEOUT_S)
        except WorkerError as error:
            raise DeviceError(f"the kernels of {self._farm.source} cannot be asked: {error}") from error
        if isinstance(answer, Refused):
            raise DeviceError(answer.message)
        return answer


def _configs(names: Sequence[str], values: bytes) -> list[Config]:
    """Return configs from their values, one after the other."""
    rows = np.frombuffer(values, dtype=np.int64).reshape(-1, len(names)).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]
