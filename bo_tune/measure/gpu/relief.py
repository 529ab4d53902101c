"""Standby GPU processes that replace a lost one, warmed up with a config that is known to be harmless."""

from collections.abc import Callable
from dataclasses import replace

from bo_tune.core.problem import Problem
from bo_tune.core.repetitions import TimingProtocol
from bo_tune.core.space import Config
from bo_tune.errors import WorkerError
from bo_tune.measure.device import MeasureAnswer
from bo_tune.processes.standby import Standbys
from bo_tune.processes.worker import Child

WARM = "warm"
"""Noted for a GPU process that has measured."""


class Relief(Standbys):
    """Starts GPU processes that are warm when they take over.

    A fresh process would spend a second on its first config, on inputs and on torch's and Triton's modules. So it first
    measures a config that another process has measured before, and the result is thrown away.

    Args:
        fork: starts a GPU process.
        warm_up_s: seconds after which warming up is given up.
        most: how many processes stand ready at most.

    Attributes:
        launches: launches that warming up has taken.
    """

    def __init__(self, fork: Callable[[], Child], warm_up_s: float, *, most: int) -> None:
        super().__init__(fork, self._warm_up, most=most)
        self._warm_up_s = warm_up_s
        self._known: tuple[Problem, Config, TimingProtocol] | None = None
        self.launches = 0

    def learn(self, problem: Problem, config: Config, protocol: TimingProtocol) -> None:
        """Remember a config that was measured and did no harm."""
        self._known = problem, config, replace(protocol, first=1, repetitions=1)

    def _warm_up(self, child: Child) -> None:
        child.wait_until_ready()
        known = self._known
        if known is None:
            return
        try:
            answer: MeasureAnswer = child.request(("measure", *known, None), self._warm_up_s)
            if not answer.healthy:
                raise WorkerError("a config that did no harm before broke a fresh GPU process")
        except WorkerError:
            self._known = None  # do not use it for the next process
            raise
        self.launches += answer.outcome.launches.total()
        child.notes.add(WARM)
