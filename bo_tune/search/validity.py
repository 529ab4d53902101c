"""Where configs do not run at all: a probability learnt from invalid trials.

Invalid is a label, never a bad value. The labels are regressed by a Gaussian process of fixed length scale whose mean
says "likely valid"; least-squares classification (Rasmussen & Williams 2006, section 6.5), which needs no iteration.
"""

import numpy as np
from numpy.typing import NDArray

from bo_tune.search.surrogate import matern, squared_distances

Array = NDArray[np.float64]

LIKELY = 0.95
"""Probability to be valid far from every label."""

_VARIANCE = 0.25
_NOISE = 0.01
_LOWEST = 0.01


class ValidityModel:
    """Probability that a config is valid.

    Args:
        inputs: of the labelled configs, ``[n, D]``, standardised.
        valid: their labels, ``[n]``.
    """

    def __init__(self, inputs: Array, valid: NDArray[np.bool_]) -> None:
        self._inputs = inputs
        self._scales = np.full(inputs.shape[1], np.sqrt(max(inputs.shape[1], 1)))
        kernel = _VARIANCE * matern(squared_distances(inputs, inputs, self._scales))
        kernel[np.diag_indices_from(kernel)] += _NOISE
        self._weights = np.linalg.solve(kernel, valid.astype(float) - LIKELY)

    def probability(self, inputs: Array) -> Array:
        """Return ``[C]`` for inputs ``[C, D]``, never quite 0 nor above 1."""
        cross = _VARIANCE * matern(squared_distances(inputs, self._inputs, self._scales))
        return np.clip(LIKELY + cross @ self._weights, _LOWEST, 1.0)
