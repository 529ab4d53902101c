"""How much is lost where a study that others teach ends after 10 configs instead of 20, as databases of sessions tell.

    python benchmarks/after_ten.py sqlite:///folders.db …

For each search of 16 to 21 trials: the time of the best of its first 6, 8, 10, 12 and 15 configs over that of the best
of all, minus one, in % (mean, and 95 % quantile), by the squared distance of the nearest problem of the same database
whose study had ended before (``search.gp.prior.distance``), and of all searches together. Times are those of trials, so
noise makes the loss look larger than it is.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from math import inf

import numpy as np

from bo_tune.core.problem import LoraProblem
from bo_tune.search.gp.prior import distance
from bo_tune.store.reader import StudySummary
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import time_us
from bo_tune.tuning.history import descriptor

AFTER = (6, 8, 10, 12, 15)
FEWEST, MOST = 16, 21
"""Trials of a study that others taught to its end."""

BOUNDS = (0.0, 0.5, 1.5, 6.0, inf)


@dataclass(frozen=True)
class Searched:
    """A study's times in us, in the order in which they were taken; ``inf`` for configs that are invalid."""

    summary: StudySummary
    begun: datetime
    ended: datetime
    times_us: list[float]


def searches(url: str) -> Iterator[list[Searched]]:
    """Yield the studies of each kernel in a database."""
    with StudyStore(url) as store:
        summaries = [one for one in store.summaries() if isinstance(one.name.problem, LoraProblem)]
        trials = store.trials_of(summaries)
    by_kernel = defaultdict(list)
    for one in summaries:
        done = [(t.datetime_complete, t) for t in trials[one.name] if t.datetime_complete and t.datetime_start]
        done.sort(key=lambda pair: pair[0])
        if done:
            begun = min(t.datetime_start for _, t in done if t.datetime_start)
            times = [time_us(t) or inf for _, t in done]
            by_kernel[one.name.problem.kernel].append(Searched(one, begun, done[-1][0], times))
    yield from by_kernel.values()


def nearest(one: Searched, others: list[Searched]) -> float:
    """Return the squared distance of the nearest problem whose study had ended before; ``inf`` if none had."""
    here = descriptor(one.summary.name.problem, one.summary.gpu)
    ended = [other.summary for other in others if other.ended <= one.begun]
    return min((distance(descriptor(s.name.problem, s.gpu), here) for s in ended), default=inf)


def main() -> None:
    """Print the table."""
    rows = [
        (nearest(one, of_kernel), [min(one.times_us[:count]) / min(one.times_us) - 1.0 for count in AFTER])
        for url in sys.argv[1:]
        for of_kernel in searches(url)
        for one in of_kernel
        if FEWEST <= len(one.times_us) <= MOST
    ]
    print("| nearest problem, squared distance | studies |", " | ".join(f"after {count}" for count in AFTER), "|")
    print("|---" * (2 + len(AFTER)) + "|")
    parts = {
        f"{low:g} to {high:g}": [loss for far, loss in rows if low <= far < high] for low, high in pairwise(BOUNDS)
    }
    for name, losses in {**parts, "all": [loss for _, loss in rows]}.items():
        if losses:
            cells = [f"{column.mean():.2f} ({np.quantile(column, 0.95):.1f})" for column in 100 * np.array(losses).T]
            print(f"| {name} | {len(losses)} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
