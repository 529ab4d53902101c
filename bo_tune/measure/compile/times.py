"""Learns how long compiles take: the deadline for a kernel's next compile, and the time to expect for a config's.

Both are learned from the compiles of the session, which share a host and kernels; bundled times would be another
host's. Compile times are smooth in the logarithms of a config's parameters, since loops are unrolled and registers
allocated by block sizes. After 60 compiles of an H100's recorded grids, a quadratic fit predicts them to a factor of
1.4, while they differ by a factor of 2.5 (standard deviations). Of those that ran into a deadline of 8 s, nine in ten
are expected to take more than 3 times the upper quartile.
"""

import threading
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.space import Config, rows_of
from bo_tune.kernels.registry import is_known, kernel_spec
from bo_tune.measure.device import Slowness

MOST_SLOWNESS = 50.0
"""Fits go on rising beyond what was seen, but deadlines end a compile long before that."""

TIMED_OUT = 2.0
"""A compile that ran into its deadline is taken to need this many times the deadline. Nobody knows its real time."""

LEAST_S = 0.01
RIDGE = 0.3
REFITTED_EVERY = 8


class CompileTimes:
    """The times that the compiles of each kernel have taken. Safe to use from several threads.

    Args:
        most_s: the longest deadline, and the deadline until enough is known.
        least_s: the shortest deadline, unless ``most_s`` is shorter.
    """

    KNOWN = 16
    """Compiles of a kernel after which its deadline adapts."""
    FACTOR = 5.0
    """A deadline is this many times the upper quartile of the compiles so far. In the 19 bundled recordings, no config
    within 5 % of its grid's best took more than 4 times its grid's upper quartile."""
    FITTED = 32
    """Compiles of a kernel after which the times of future ones are predicted by config."""

    def __init__(self, most_s: float, least_s: float = 2.0) -> None:
        self._most_s, self._least_s = most_s, min(least_s, most_s)
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._fits: defaultdict[tuple[str, tuple[str, ...]], _Fit] = defaultdict(_Fit)
        self._lock = threading.Lock()

    def learn(self, kernel: str, config: Config, compile_s: float) -> None:
        """Record a compile that ended by itself."""
        with self._lock:
            insort(self._seconds[kernel], compile_s)
            self._fit(kernel, config).add(_features([config])[0], compile_s)

    def learn_timeout(self, kernel: str, config: Config, deadline_s: float) -> None:
        """Record a compile that ran into its deadline."""
        with self._lock:
            self._fit(kernel, config).add(_features([config])[0], TIMED_OUT * deadline_s)

    def deadline_s(self, kernel: str) -> float:
        """Return the deadline of a kernel's next compile, in seconds. The bounds apply to each of its binaries."""
        binaries = kernel_spec(kernel).launches if is_known(kernel) else 1
        most_s = self._most_s * binaries
        with self._lock:
            if len(self._seconds[kernel]) < self.KNOWN:
                return most_s
            return min(most_s, max(self._least_s * binaries, self.FACTOR * self._usual_s(kernel)))

    def slowness(self, kernel: str, configs: Sequence[Config]) -> Slowness:
        """Return a function that tells, at each call, how slow these configs' compiles are expected to be."""
        features, known = cache(partial(_features, configs)), (-1, np.ones(len(configs)))

        def now() -> NDArray[np.float64]:
            nonlocal known
            with self._lock:
                fit = self._fit(kernel, configs[0])
                if min(fit.count, len(self._seconds[kernel])) < self.FITTED:
                    return known[1]
                version, weights, usual_s = fit.version, fit.weights, self._usual_s(kernel)
            if known[0] != version:
                known = version, np.clip(np.exp(features() @ weights) / usual_s, 1.0, MOST_SLOWNESS)
            return known[1]

        return now

    def _fit(self, kernel: str, config: Config) -> "_Fit":
        """Return the fit of a kernel's configs that have the parameters of this one: a default may have others."""
        return self._fits[kernel, tuple(sorted(config))]

    def _usual_s(self, kernel: str) -> float:
        """Return the upper quartile of the compiles that ended by themselves."""
        seconds = self._seconds[kernel]
        return seconds[3 * len(seconds) // 4]


class _Fit:
    """A ridge regression of the logarithm of seconds, kept as its normal equations so that memory does not grow.

    Attributes:
        count: compiles so far.
        version: number of the fit that ``weights`` belongs to. A new one is made after some compiles.
    """

    def __init__(self) -> None:
        self.version = 0
        self.count = 0
        self._weights: NDArray[np.float64] | None = None

    def add(self, features: NDArray[np.float64], seconds: float) -> None:
        """Add a compile."""
        if self.count == 0:
            size = len(features)
            self._gram, self._moment = np.diag(np.r_[1e-6, np.full(size - 1, RIDGE)]), np.zeros(size)
        self._gram += np.outer(features, features)
        self._moment += features * np.log(max(seconds, LEAST_S))
        self.count += 1
        if self.count % REFITTED_EVERY == 0:
            self._weights, self.version = None, self.version + 1

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weight of each feature, ``[features]``, as of this version."""
        if self._weights is None:
            self._weights = np.linalg.solve(self._gram, self._moment)
        return self._weights


def _features(configs: Sequence[Config]) -> NDArray[np.float64]:
    """Return the features of configs, ``[configs, features]``.

    They are the logarithms of the parameters and their products of second order, scaled so that block sizes lie between
    -1 and 1.7.
    """
    values = np.array(rows_of(configs), dtype=float)
    linear = (np.log2(np.maximum(np.abs(values), 1.0)) - 4.0) / 3.0
    one, other = np.triu_indices(values.shape[1])
    return np.hstack([np.ones((len(configs), 1)), linear, linear[:, one] * linear[:, other]])
