"""Outcomes as Optuna trials and back, in memory and through a real database."""

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from bo_tune.core.outcome import (
    SLOW,
    Compilation,
    Invalid,
    InvalidReason,
    Launches,
    LaunchPurpose,
    Measurement,
    Outcome,
    Resources,
    estimate_us,
)
from bo_tune.core.space import Config
from bo_tune.store.frozen import ranges_of, state_of, stored_distributions, to_trial, with_distributions
from bo_tune.store.trials import REASON, launched, outcome_of, time_us

START = datetime(2026, 1, 2, 3, 4, 5)
END = START + timedelta(seconds=1)
CONFIG = {"block_m": 16, "split_k": 64}

TIMES = st.floats(0.01, 1e7, allow_nan=False, allow_infinity=False)
COUNTS = st.none() | st.integers(0, 2**31)
LAUNCHES = st.dictionaries(st.sampled_from(LaunchPurpose), st.integers(1, 10_000)).map(Counter)
COMPILATIONS = st.builds(Compilation, st.integers(0, 10**6).map(lambda n: n / 10**4), st.booleans())
RESOURCES = st.builds(Resources, COUNTS, COUNTS, COUNTS)
MEASUREMENTS = st.builds(
    Measurement,
    st.lists(TIMES, min_size=1, max_size=20).map(tuple),
    st.booleans(),
    LAUNCHES,
    COMPILATIONS,
    RESOURCES,
    st.none() | st.floats(0, 10),
)
INVALIDS = st.builds(Invalid, st.sampled_from(InvalidReason), st.text(), LAUNCHES, COMPILATIONS, RESOURCES)
CONFIGS = st.dictionaries(st.sampled_from(["block_m", "block_n", "split_k", "num_warps"]), st.integers(1, 2**20))


@given(CONFIGS, MEASUREMENTS | INVALIDS)
def test_a_trial_holds_the_whole_outcome(config: dict[str, int], outcome: Outcome) -> None:
    trial = to_trial(config, outcome, start=START, end=END)
    assert outcome_of(trial) == outcome
    assert trial.params == config
    assert trial.state is state_of(outcome)
    assert launched(trial) == (outcome.launches.total() > 0)
    assert (trial.datetime_start, trial.datetime_complete) == (START, END)


@given(MEASUREMENTS | INVALIDS)
def test_only_complete_trials_have_a_value_and_only_pruned_ones_a_reason(outcome: Outcome) -> None:
    trial = to_trial(CONFIG, outcome, start=START, end=END)
    complete = trial.state is TrialState.COMPLETE
    assert (trial.value is not None) == complete
    assert (REASON not in trial.user_attrs) == complete
    if isinstance(outcome, Measurement):
        between = trial.intermediate_values
        shown = trial.value if complete else between[max(between)]
        assert shown == outcome.time_us == time_us(trial)
        assert between == {
            count: estimate_us(outcome.runtimes_us[:count])
            for count in {3, 10, len(outcome.runtimes_us)}
            if count <= len(outcome.runtimes_us)
        }
    else:
        assert not trial.intermediate_values


def test_slow_trials_of_earlier_versions_keep_their_estimate() -> None:
    trial = to_trial(CONFIG, Measurement((3.0, 2.0, 1.0), stopped=True), start=START, end=END)
    trial.intermediate_values = {0: 2.5}
    assert time_us(trial) == 2.5


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (Measurement((2.0, 1.0)), TrialState.COMPLETE, None),
        (Measurement((2.0, 1.0), stopped=True), TrialState.PRUNED, SLOW),
        *[(Invalid(reason), TrialState.PRUNED, reason.value) for reason in InvalidReason],
    ],
)
def test_the_state_and_the_reason_of_each_outcome(outcome: Outcome, state: TrialState, reason: str | None) -> None:
    trial = to_trial(CONFIG, outcome, start=START, end=END)
    assert (trial.state, trial.user_attrs.get(REASON)) == (state, reason)


def test_outcomes_survive_a_real_database(tmp_path: Path) -> None:
    launches: Launches = Counter({LaunchPurpose.CHECK: 1, LaunchPurpose.TIMING: 10})
    outcomes: list[Outcome] = [
        Measurement((5.25, 5.5), False, launches, Compilation(1.5), Resources(1, 2, 3), 1e-6),
        Measurement((50.0,), True, launches, Compilation(cached=True)),
        *[Invalid(reason, "why: \N{SNOWMAN}", Counter(), Compilation(0.5)) for reason in InvalidReason],
    ]
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'x.db'}")
    for outcome in outcomes:
        study.add_trial(to_trial(CONFIG, outcome, start=START, end=END))
    read = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{tmp_path / 'x.db'}").get_trials()
    assert [outcome_of(trial) for trial in read] == outcomes
    assert all(trial.params == CONFIG for trial in read)


def test_a_stored_parameter_may_take_any_value_that_a_later_grid_has(tmp_path: Path) -> None:
    """Optuna wants the distributions of a parameter to stay of one kind for the study's life."""
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'x.db'}")
    values = [1, 3, 48, 64, 1024, 1025, 65536]
    for value in values:
        study.add_trial(to_trial({"block_m": value}, Invalid(InvalidReason.CONSTRAINT), start=START, end=END))
    assert [trial.params["block_m"] for trial in study.get_trials()] == values


@pytest.mark.parametrize(
    ("distribution", "value"),
    [
        (IntDistribution(16, 64, log=True), 32),
        (IntDistribution(16, 64, log=True), 8),
        (IntDistribution(16, 64), 256),
        (IntDistribution(4, 4), 2),
    ],
)
def test_a_config_off_the_grid_still_fits_a_study_in_memory(distribution: IntDistribution, value: int) -> None:
    trial = to_trial({"block_m": value}, Measurement((1.0,)), start=START, end=END)
    copied = with_distributions(trial, {"block_m": distribution})
    study = optuna.create_study()
    study.add_trial(copied)
    fitting = copied.distributions["block_m"]
    assert isinstance(fitting, IntDistribution)
    assert fitting.low <= min(value, distribution.low)
    assert fitting.high >= max(value, distribution.high)
    assert fitting.log == distribution.log
    assert study.get_trials()[0].params == {"block_m": value}
    assert trial.distributions["block_m"] == IntDistribution(1, 1024)


def test_a_categorical_distribution_is_taken_as_it_is() -> None:
    trial = to_trial({"block_m": 48}, Measurement((1.0,)), start=START, end=END)
    distribution = CategoricalDistribution((16, 48))
    assert with_distributions(trial, {"block_m": distribution}).distributions == {"block_m": distribution}


@pytest.mark.parametrize("config", [{}, {"block_m": 1}])
def test_a_trial_without_launches_was_not_launched(config: Config) -> None:
    assert not launched(to_trial(config, Measurement((1.0,)), start=START, end=END))
    assert not launched(optuna.trial.create_trial(value=1.0))


def test_stored_ranges_are_those_of_the_grid_and_the_default() -> None:
    """Axes that Optuna's tools draw end where the grid does, and a constant has no importance."""
    ranges = ranges_of({"block_m": (16, 32, 256), "num_ctas": (1,)}, {"block_m": 8, "num_ctas": 1})
    assert ranges == {"block_m": (8, 256), "num_ctas": (1, 1)}
    kinds = stored_distributions({"block_m": 64, "num_ctas": 1}, ranges)
    assert kinds == {"block_m": IntDistribution(8, 256), "num_ctas": IntDistribution(1, 1)}
    assert kinds["num_ctas"].single()
    assert stored_distributions({"block_m": 512}, ranges) == {"block_m": IntDistribution(8, 512)}
    assert stored_distributions({"block_m": 64}, {}) == {"block_m": IntDistribution(1, 1024)}
