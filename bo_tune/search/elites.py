"""What was fastest in other places, tried as it is.

Where nothing describes configs but the values of their parameters, a GPU's times say little of another's: of two that
order a kernel's configs alike, one may be fastest with shared memory and the other without. A surrogate of what they
share is then sure of the wrong region. What was fastest on one of them is often among the fastest on another, though.
So a few of the fastest configs of each place are tried first, and then a study goes on as if it had not been taught and
had not seen them: with trials of a plateau that others led to, it would stay there. So it finds what it would have
found untaught, a few trials later, or better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bo_tune.search.gp.correlation import Indices
from bo_tune.search.gp.prior import HistoryPrior
from bo_tune.search.grid import Grid
from bo_tune.search.study_log import Observation, StudyLog

OF_EACH = 8
"""Fastest configs of another study that may be tried."""

TURNS_OF_EACH = 3
"""Trials for each of the other studies."""

MOST_TURNS = 8
"""Trials for all of them."""


@dataclass(frozen=True, slots=True)
class Elites:
    """The fastest configs of other studies.

    Attributes:
        indices: of the configs on the grid, without repeats: the fastest of each study, then the second of each, ….
        turns: how many of them a study tries before it goes on.
    """

    indices: Indices
    turns: int

    @classmethod
    def of(cls, prior: HistoryPrior, grid: Grid) -> "Elites":
        """Return the elites of a prior's studies."""
        ranked = []
        for number, history in enumerate(prior.histories):
            fastest = np.argsort(history.times, kind="stable")[:OF_EACH]
            found = (grid.index(history.configs[int(row)]) for row in fastest)
            ranked += [(rank, number, index) for rank, index in enumerate(found) if index is not None]
        indices = list(dict.fromkeys(index for _, _, index in sorted(ranked)))
        turns = min(TURNS_OF_EACH * len(prior.histories), MOST_TURNS, len(indices))
        return cls(np.array(indices, dtype=np.intp), turns)

    def due(self, log: StudyLog, free: NDArray[np.bool_]) -> Indices:
        """Return those of which one is to be tried now; none once enough were.

        Args:
            log: what the study holds.
            free: ``[C]``, the configs to choose from.
        """
        tried = sum(index in self.indices for index in [*(o.index for o in log.observations), *log.pending])
        return self.indices[free[self.indices]] if tried < self.turns else self.indices[:0]

    def others(self, observations: Sequence[Observation]) -> list[Observation]:
        """Return observations but for those of the trials that the elites took."""
        taken = [at for at, one in enumerate(observations) if one.index in self.indices][: self.turns]
        return [one for at, one in enumerate(observations) if at not in taken]
