"""Where configs do not run at all: a probability learnt from invalid trials.

Invalid is a label, never a bad value. The labels (0 valid, 1 invalid) are regressed by the same Gaussian process as the
times, and the prediction is squashed: least-squares classification (Rasmussen & Williams 2006, section 6.5).

Notation: μ, σ predicted mean and standard deviation of the label; P(valid) = Φ((1/2 - μ) / √(σ² + 1/10²)).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from bo_tune.search.gp.posterior import Array, Indices, Tables
from bo_tune.search.gp.surrogate import Data, Hyperpriors, Surrogate, rung

SHARPNESS = 0.1
"""Standard deviation of the label at which a prediction is taken for certain."""

FEW_INVALID = 0.25
"""Standard deviation of a label before any is seen: most configs are valid."""


class Validity:
    """What the trials of a study say of where configs run.

    Args:
        inputs: of all points, ``[P, D]``.
    """

    def __init__(self, inputs: Array) -> None:
        priors = replace(Hyperpriors.vague(inputs.shape[1]), amplitude=FEW_INVALID, offset=FEW_INVALID)
        self._vague = Surrogate(inputs, priors)
        self._fitted: tuple[bytes, Surrogate] | None = None
        self._tables = Tables()

    def log_probability(self, points: Indices, invalid: NDArray[np.bool_], asked: Indices) -> Array:
        """Log of the probability that each point asked about is valid, ``[len(asked)]``.

        Args:
            points: of the trials, ``[n]``; all of them asked about.
            invalid: their labels, ``[n]``.
            asked: ascending.
        """
        count = rung(len(points))
        key = points[:count].tobytes() + invalid[:count].tobytes()
        labels, silent = invalid.astype(float), np.zeros(len(points))
        if self._fitted is None or self._fitted[0] != key:
            self._fitted = key, self._vague.fit(Data(points[:count], labels[:count], silent[:count]))
        posterior = self._tables.table(self._fitted[1], asked, points, silent, count).given(labels)
        margin = (0.5 - posterior.mean) / np.hypot(posterior.deviation, SHARPNESS)
        return np.asarray(log_ndtr(margin), dtype=float)
