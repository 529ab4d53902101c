"""What other studies of a kernel teach about a new one.

Times of different problems are not comparable, ratios are: a prior predicts log(time / best time of its problem) of a
config from its features, which describe config, problem and GPU together. A surrogate takes the prediction as its mean
and keeps the right to disagree (see ``surrogate``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from bo_tune.search.grid import Params

Array = NDArray[np.float64]

CLIP = 2.0
"""log(time / best) above this is not told apart: it is all hopeless."""


@dataclass(frozen=True)
class StudyHistory:
    """A finished study of the same kernel: another problem, or another GPU.

    Attributes:
        features: ``[n, F]``, of its configs on its problem and GPU, by the function that the new study uses.
        times: ``[n]``, in any unit (us); all above 0.
        configs: its configs, ``n`` of them.
        descriptor: what tells problems apart, name to number, on a scale where a difference of 1 matters alike
            (log2 of m, k, n, …). Studies with a nearer descriptor count more when winners are picked.
    """

    features: Array
    times: Array
    configs: Sequence[Params] = ()
    descriptor: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.features) != len(self.times):
            raise ValueError(f"{len(self.features)} rows of features for {len(self.times)} times")
        if len(self.times) == 0 or not (np.asarray(self.times) > 0).all():
            raise ValueError("a study's history needs times, all above 0")


class Prior(Protocol):
    """A guess at log(time / best time) from features."""

    def predict(self, features: Array) -> Array:
        """Return ``[C]`` for features ``[C, F]``."""


class TreesPrior:
    """Extremely randomised trees (Geurts, Ernst & Wehenkel 2006) over the ratios of all histories.

    Args:
        histories: at least one.
        seed: of the trees.
    """

    def __init__(self, histories: Sequence[StudyHistory], *, seed: int = 0, trees: int = 60) -> None:
        if not histories:
            raise ValueError("a prior needs at least one history")
        targets = [np.minimum(np.log(h.times / h.times.min()), CLIP) for h in histories]
        weights = [np.full(len(h.times), 1.0 / len(h.times)) for h in histories]
        self._trees = ExtraTreesRegressor(n_estimators=trees, min_samples_leaf=1, random_state=seed, n_jobs=1)
        self._trees.fit(
            np.concatenate([h.features for h in histories]), np.concatenate(targets), np.concatenate(weights)
        )

    def predict(self, features: Array) -> Array:
        """Return the mean of the trees, ``[C]``."""
        return np.asarray(self._trees.predict(features), dtype=float)


def nearest_winners(histories: Sequence[StudyHistory], descriptor: Mapping[str, float], count: int = 2) -> list[Params]:
    """Best configs of the histories whose problems are nearest, nearest first, without repeats."""

    def distance(history: StudyHistory) -> float:
        names = set(history.descriptor) | set(descriptor)
        return sum((history.descriptor.get(name, 0.0) - descriptor.get(name, 0.0)) ** 2 for name in names)

    winners: list[Params] = []
    for history in sorted((h for h in histories if len(h.configs)), key=distance):
        best = dict(history.configs[int(np.argmin(history.times))])
        if best not in winners:
            winners.append(best)
    return winners[:count]
