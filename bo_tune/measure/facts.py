"""What kernels make of configs on a GPU, asked from the compilers: this process loads neither torch nor triton.

Asking a kernel about thousands of configs takes a third of a second where an engine's own launcher has to be run for
each. The compilers do it side by side, and before the first compile they have nothing else to do.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from bo_tune.errors import DeviceError, WorkerError
from bo_tune.measure.compile_farm import CompileFarm
from bo_tune.measure.messages import DecidedByRequest, FactsAnswer, FactsRequest, NoteRequest, Refused, SourceRequest
from bo_tune.problem import AnyProblem, GpuInfo
from bo_tune.space import Config

ANSWER_TIMEOUT_S = 120.0


def binary_name(key: Hashable) -> str:
    """Return a short name of a compile key (``Operation.compile_key``), the same in every process."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()


class KernelFacts:
    """What the kernels of one source make of configs on one GPU. Safe to use from several threads.

    Args:
        farm: whose compilers are asked; it numbers the binaries.
    """

    def __init__(self, farm: CompileFarm, gpu: GpuInfo) -> None:
        self._farm, self._gpu = farm, gpu
        self._numbers: defaultdict[AnyProblem, dict[Hashable, int]] = defaultdict(dict)
        self.source = cache(self._source)

    def _source(self, kernel: str) -> str:
        """Which code of a kernel is compiled. Raises DeviceError."""
        answer: str = self._ask(SourceRequest(kernel))
        return answer

    def effective_configs(self, problem: AnyProblem, configs: Sequence[Config]) -> list[Config]:
        """Return for each config the one that really runs: itself, or another. Raises DeviceError."""
        answer: FactsAnswer = self._ask(FactsRequest(problem, tuple(configs), self._gpu))
        known = self._numbers[problem]
        known.update(zip(_keys(configs), map(self._farm.number, answer.binaries), strict=True))
        pairs = zip(configs, answer.effective, strict=True)
        return [config if effective is None else dict(effective) for config, effective in pairs]

    def note(self, problem: AnyProblem) -> str | None:
        """Return a line on what tuning a kernel is good for, if there is anything to say. Raises DeviceError."""
        answer: str | None = self._ask(NoteRequest(problem, self._gpu))
        return answer

    def decided_by(self, problem: AnyProblem) -> tuple[str, ...]:
        """Name the kernels that decide for a problem's (``Operation.decided_by``). Raises DeviceError."""
        answer: tuple[str, ...] = self._ask(DecidedByRequest(problem, self._gpu))
        return answer

    def numbers(self, problem: AnyProblem, configs: Sequence[Config]) -> list[int]:
        """Return the number in the farm of each config's binary. Raises DeviceError."""
        known, keys = self._numbers[problem], _keys(configs)
        unknown = [config for config, key in zip(configs, keys, strict=True) if key not in known]
        if unknown:
            self.effective_configs(problem, unknown)
        return [known[key] for key in keys]

    def _ask(self, request: object) -> Any:
        try:
            answer = self._farm.ask(request, ANSWER_TIMEOUT_S)
        except WorkerError as error:
            raise DeviceError(f"the kernels of {self._farm.source} cannot be asked: {error}") from error
        if isinstance(answer, Refused):
            raise DeviceError(answer.message)
        return answer


def _keys(configs: Sequence[Config]) -> list[Hashable]:
    """The values of configs in the order of their names, which are the same for all configs of a kernel."""
    return list(map(itemgetter(*sorted(configs[0])), configs)) if configs else []
