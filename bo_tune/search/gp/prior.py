"""What other studies of a kernel teach about a new one: which of their trials are looked at, and how their times are
compared. The model of what they have in common is in ``shared``."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bo_tune.search.gp.correlation import Array
from bo_tune.search.gp.shared import HERE, Rows, SharedPart
from bo_tune.search.grid import Params

ROWS_PER_STUDY = 45
"""Trials of another study that are looked at: late ones are near its optimum and much alike."""

MOST_STUDIES = 6
"""Other studies that are looked at: a proposal takes the number of all rows times that of the configs."""

SQUEEZE = 0.6
"""log(time / best) above which differences count logarithmically: what is far off is hopeless alike."""


@dataclass(frozen=True)
class StudyHistory:
    """A study of the same kernel: another problem, or another GPU.

    Attributes:
        features: ``[n, F]``, of its configs on its problem and GPU, by the function that the new study uses.
        times: ``[n]``, in any unit (us); all above 0. Slow configs teach as much as fast ones.
        configs: its configs, ``n`` of them.
        descriptor: what tells problems apart, name to number, on a scale where a difference of 1 matters alike
            (log2 of m, k, n, …).
        place: equal for what was measured on the same GPU, of the same kernel source, under the same conditions.
    """

    features: Array
    times: Array
    configs: Sequence[Params]
    descriptor: Mapping[str, float] = field(default_factory=dict)
    place: Hashable = None

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.times) == len(self.configs):
            sizes = f"{len(self.features)}, {len(self.times)} and {len(self.configs)}"
            raise ValueError(f"features, times and configs of a history must have the same number: {sizes}")
        if len(self.times) == 0 or not (np.asarray(self.times) > 0).all():
            raise ValueError("a study's history needs times that are all above 0")

    def sample(self, count: int) -> "StudyHistory":
        """At most count of its n trials, denser among the fast ones: half of them are of the √(n · count) / 2 fastest.

        Of an exhaustive search nearly all configs are slow; what tells the best from the good is in the first hundred.
        """
        if len(self.times) <= count:
            return self
        denser = 1.0 + 0.5 * np.log2(len(self.times) / count)
        ranks = np.unique(np.round((len(self.times) - 1) * np.linspace(0.0, 1.0, count) ** denser).astype(int))
        rows = np.sort(np.argsort(self.times, kind="stable")[ranks])
        configs = [self.configs[row] for row in rows]
        return replace(self, features=self.features[rows], times=self.times[rows], configs=configs)


def squeeze(targets: Array) -> Array:
    """Keep log(time / best) up to ``SQUEEZE``; grow logarithmically above it."""
    over = np.maximum(targets - SQUEEZE, 0.0)
    return np.where(over > 0, SQUEEZE + SQUEEZE * np.log1p(over / SQUEEZE), targets)


def distance(descriptor: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Squared distance of two problems; a name that one lacks counts as 0."""
    names = set(descriptor) | set(other)
    return sum((descriptor.get(name, 0.0) - other.get(name, 0.0)) ** 2 for name in names)


class HistoryPrior:
    """A prior from other studies, to be given to a sampler.

    Of many, those of the new study's place are looked at first, the nearest of them; others make up the number.

    Args:
        histories: at least one.
        descriptor: of the new problem, to tell the nearest histories.
        place: of the new study.
    """

    def __init__(
        self,
        histories: Sequence[StudyHistory],
        *,
        descriptor: Mapping[str, float] | None = None,
        place: Hashable = None,
    ) -> None:
        if not histories:
            raise ValueError("a prior needs at least one history")

        def far(history: StudyHistory) -> tuple[bool, float]:
            return history.place != place, distance(history.descriptor, descriptor) if descriptor else 0.0

        self.histories = [history.sample(ROWS_PER_STUDY) for history in sorted(histories, key=far)[:MOST_STUDIES]]
        self.configs = [config for history in self.histories for config in history.configs]
        self.features = np.concatenate([history.features for history in self.histories])
        self._place = place

    @property
    def knows_place(self) -> bool:
        """Whether one of them is of the new study's place."""
        return any(history.place == self._place for history in self.histories)

    @property
    def carries_over(self) -> bool:
        """Whether a model of the histories speaks of the new study.

        It does so by features that describe configs, or for being of the same place.
        """
        return self.knows_place or self.features.shape[1] > 0

    def learn(self, inputs: Array, points: Array) -> SharedPart:
        """Fit the model of the histories.

        Args:
            inputs: of the histories' trials, ``[H, D]``.
            points: inputs of the new study's points, ``[P, D]``, where the shared part will be asked for.
        """
        ratios = [np.log(np.asarray(history.times) / np.min(history.times)) for history in self.histories]
        problems = np.repeat(np.arange(len(ratios)), [len(y) for y in ratios])
        elsewhere = dict.fromkeys(history.place for history in self.histories if history.place != self._place)
        numbers = {self._place: HERE} | {place: number for number, place in enumerate(elsewhere, HERE + 1)}
        places = np.array([numbers[history.place] for history in self.histories])
        return SharedPart(Rows(inputs, squeeze(np.concatenate(ratios)), problems, places[problems]), points)
