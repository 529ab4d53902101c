"""Where configs do not run at all: a probability learnt from invalid trials.

Invalid is a label, never a bad value. The labels (0 valid, 1 invalid) are regressed by the same Gaussian process as the
times, and the prediction is squashed: least-squares classification (Rasmussen & Williams 2006, section 6.5).

Notation: μ, σ predicted mean and standard deviation of the label; P(valid) = Φ((1/2 - μ) / √(σ² + 1/10²)).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from bo_tune.search.surrogate import Data, Hyperpriors, Indices, Surrogate

Array = NDArray[np.float64]

SHARPNESS = 0.1
"""Standard deviation of the label at which a prediction is taken for certain."""

FEW_INVALID = 0.25
"""Standard deviation of a label before any is seen: most configs are valid."""


def label_model(inputs: Array, points: Indices, invalid: NDArray[np.bool_]) -> Surrogate:
    """Fit the labels of trials.

    Args:
        inputs: of all points, ``[P, D]``.
        points: of the trials, ``[n]``.
        invalid: their labels, ``[n]``.
    """
    priors = replace(Hyperpriors.vague(inputs.shape[1]), amplitude=FEW_INVALID, offset=FEW_INVALID)
    return Surrogate(inputs, priors).fit(label_data(points, invalid))


def label_data(points: Indices, invalid: NDArray[np.bool_]) -> Data:
    """Labels as targets of a surrogate."""
    return Data(points, invalid.astype(float), np.zeros(len(points)))


def log_probability_valid(model: Surrogate, data: Data, candidates: Indices) -> Array:
    """Log of the probability that each candidate is valid, ``[C]``."""
    mean, deviation = model.condition(data).predict(candidates)
    return np.asarray(log_ndtr((0.5 - mean) / np.hypot(deviation, SHARPNESS)), dtype=float)
