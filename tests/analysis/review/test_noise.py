"""Spread of repetitions."""

import pytest

from bo_tune.analysis.review.noise import FEWEST_CONFIGS, NoiseBand, noise_bands, spread


def test_spread_is_between_the_outer_tenths_over_the_median() -> None:
    assert spread([100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0, 107.0, 108.0, 109.0, 110.0]) == pytest.approx(
        8 / 105
    )


def test_late_repetitions_do_not_count() -> None:
    assert spread([10.0, 10.0, 10.0, 30.0]) == 0.0


def test_two_repetitions_tell_nothing() -> None:
    assert spread([10.0, 11.0]) is None
    assert spread([]) is None


def test_bands_are_octaves_with_enough_configs() -> None:
    measured = [(5.0, 0.01 * i) for i in range(FEWEST_CONFIGS + 1)] + [(9.0, 0.5)]
    assert noise_bands(measured) == [NoiseBand(4.0, 8.0, 11, pytest.approx(0.05), pytest.approx(0.09))]
