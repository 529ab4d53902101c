"""One study on a device in memory: what is proposed, measured, recorded, and resumed."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from helpers import H100, FakeDevice, Times, sqlite_url
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from bo_tune.core.choices import MEMORY
from bo_tune.core.events import Event, TrialRecorded
from bo_tune.core.outcome import Invalid, InvalidReason, Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.kernels.registry import kernel_spec
from bo_tune.search import make_sampler
from bo_tune.store.storage import StoredStudy, StudyName, StudyStore
from bo_tune.store.trials import REASON, outcome_of
from bo_tune.tuning.candidates import Candidates
from bo_tune.tuning.proposer import SamplerProposer
from bo_tune.tuning.settings import Finalists, TunerSettings
from bo_tune.tuning.tuner import MOST_INVALID_PER_LAUNCHED, InterruptedSearch, Tuner

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
SPEC = kernel_spec("lora_shrink")
FIXED = {"block_n": 32, "block_k": 64, "num_warps": 4, "num_ctas": 1}
SPACE = SearchSpace.of(
    {"block_m": (16, 32, 64, 128), "num_stages": (2, 3, 4), "split_k": (4, 8), **{k: (v,) for k, v in FIXED.items()}}
)
DEFAULT = {"block_m": 48, "num_stages": 2, "split_k": 8, **FIXED}
WRONG = Invalid(InvalidReason.WRONG_RESULT, "relative error 1")
TIMED_OUT = Invalid(InvalidReason.COMPILE_TIMEOUT, "the compile took longer than 1 s")


def bowl(config: Config) -> float:
    """Times in us between 10 and 30, the best at block_m 64, num_stages 3, split_k 8."""
    return 10 + abs(config["block_m"] - 64) / 8 + 2 * abs(config["num_stages"] - 3) + (8 - config["split_k"])


def device(times: Times = bowl, **more: object) -> FakeDevice:
    return FakeDevice(times=times, space=SPACE, **more)  # type: ignore[arg-type]


def all_candidates(configs: Sequence[Config] | None = None) -> Candidates:
    mask = np.array([configs is None or config in configs for config in SPACE])
    return Candidates(SPACE, mask, {}, {})


def new_study() -> StoredStudy:
    return StudyStore(MEMORY).open(StudyName(PROBLEM, H100.name, "fake"), H100)


def tuner(
    on: FakeDevice,
    *,
    budget: int | None = None,
    sampler: str = "random",
    seed: int = 0,
    stored: StoredStudy | None = None,
    configs: Sequence[Config] | None = None,
    lookahead: int = 1,
    default: dict[str, int] = DEFAULT,
    stop_slow: bool = True,
    listener: Callable[[Event], None] = lambda event: None,
    stop: threading.Event | None = None,
) -> Tuner:
    found = all_candidates(configs)
    sampling = make_sampler(sampler, SPACE.ranges, default=default, valid=found.__contains__, seed=seed)
    return Tuner(
        PROBLEM,
        SPEC,
        on,
        stored or new_study(),
        found,
        default,
        SamplerProposer(sampling, SPACE.ranges),
        TunerSettings(budget, finalists=Finalists(3), stop_slow=stop_slow),
        lookahead=lambda: lookahead,
        listener=listener,
        stop=stop,
    )


def keys(configs: Sequence[Config]) -> list[object]:
    return [config_key(config) for config in configs]


def test_the_default_is_trial_0_even_off_the_grid() -> None:
    on = device()
    search = tuner(on, budget=5)
    search.search()
    assert on.measured[0] == DEFAULT
    assert search.trials[0].params == DEFAULT
    assert len(on.measured) == search.launched_configs == 5


@pytest.mark.parametrize("sampler", ["grid-gp", "random", "coordinate", "grid"])
def test_a_default_on_the_grid_is_tried_once_however_many_configs_are_under_way(sampler: str) -> None:
    on, default = device(), {"block_m": 64, "num_stages": 3, "split_k": 8, **FIXED}
    tuner(on, sampler=sampler, lookahead=5, default=default).search()
    assert len(on.measured) == len(SPACE)
    assert len(set(keys(on.measured))) == len(SPACE)
    assert on.measured[0] == default


@pytest.mark.parametrize("sampler", ["grid-gp", "random", "coordinate", "grid"])
@pytest.mark.parametrize("lookahead", [1, 3, 50])
def test_a_small_grid_is_exhausted_once_and_no_more(sampler: str, lookahead: int) -> None:
    on = device()
    search = tuner(on, sampler=sampler, lookahead=lookahead)
    search.search()
    assert Counter(keys(on.measured)) == Counter(keys([DEFAULT, *SPACE]))
    search.search()
    assert len(on.measured) == 1 + len(SPACE)
    assert search.best_us == 10.0


def test_the_default_is_not_given_up_however_slow_it_is() -> None:
    stored, slow = new_study(), {"block_m": 16, "num_stages": 2, "split_k": 4, **FIXED}
    tuner(device(), budget=5, stored=stored).search()
    on = device(lambda config: 100.0 if config == slow else bowl(config))
    search = tuner(on, budget=7, stored=stored, default=slow)
    search.search()
    trial = next(t for t in search.trials if t.params == slow)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 100.0)
    choice = search.choose()
    assert choice is not None
    assert choice.default_time_us == 100.0


def test_the_budget_counts_launched_configs_only() -> None:
    on = device(lambda config: TIMED_OUT if config["num_stages"] == 4 else bowl(config))
    search = tuner(on, budget=12, sampler="grid")
    search.search()
    assert search.launched_configs == len(on.measured) == 12
    assert len(search.trials) == len(on.compiled) > 12
    assert {t.user_attrs.get(REASON) for t in search.trials} == {None, "slow", TIMED_OUT.reason.value}


@settings(max_examples=30)
@given(
    lookahead=st.integers(1, 30),
    budget=st.integers(1, 30),
    invalid=st.sets(st.integers(0, len(SPACE) - 1)),
    seed=st.integers(0, 100),
)
def test_no_lookahead_spends_more_than_the_budget_or_tries_twice(
    lookahead: int, budget: int, invalid: set[int], seed: int
) -> None:
    bad = {config_key(SPACE[index]) for index in invalid}
    on = device(lambda config: TIMED_OUT if config_key(config) in bad else bowl(config))
    search = tuner(on, budget=budget, lookahead=lookahead, seed=seed)
    search.search()
    assert len(on.measured) == search.launched_configs <= budget
    assert max(Counter(keys(on.compiled)).values()) == 1
    assert on.compiled[0] == DEFAULT
    untried = len(SPACE) + 1 - len(on.compiled)
    hopeless = len(search.trials) - search.launched_configs >= MOST_INVALID_PER_LAUNCHED * budget
    assert search.launched_configs == budget or untried == 0 or hopeless


def test_a_study_that_proves_invalid_all_over_ends() -> None:
    on = device(lambda config: TIMED_OUT)
    search = tuner(on, budget=2)
    search.search()
    assert len(search.trials) == 2 * MOST_INVALID_PER_LAUNCHED
    assert search.best_us is None
    assert search.choose() is None


@pytest.mark.parametrize("reason", list(InvalidReason))
def test_a_reason_is_kept_and_never_becomes_a_time(reason: InvalidReason) -> None:
    invalid = Invalid(reason, "why")
    search = tuner(device(lambda config: invalid if config["split_k"] == 4 else bowl(config)), sampler="grid")
    search.search()
    bad = [t for t in search.trials if t.params["split_k"] == 4]
    assert len(bad) == len(SPACE) / 2
    for trial in bad:
        assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, None, {})
        outcome = outcome_of(trial)
        assert isinstance(outcome, Invalid)
        assert (outcome.reason, outcome.detail) == (reason, "why")
    assert all(outcome_of(t).compilation is not None for t in search.trials)


def test_a_clearly_slow_config_stops_after_the_first_repetitions() -> None:
    on = device(lambda config: 100.0 if config["block_m"] == 128 else 10.0)
    search = tuner(on, sampler="grid")
    search.search()
    slow = [t for t in search.trials if t.user_attrs.get(REASON) == "slow"]
    assert {t.params["block_m"] for t in slow} == {128}
    assert len(slow) == 6
    for trial in slow:
        outcome = outcome_of(trial)
        assert isinstance(outcome, Measurement)
        assert len(outcome.runtimes_us) == on.protocol.first
        assert trial.intermediate_values == {on.protocol.first: 100.0}
    assert on.incumbents[0] is None
    assert set(on.incumbents[1:]) == {10.0}


def test_an_exhaustive_search_takes_every_repetition() -> None:
    on = device(lambda config: 100.0 if config["block_m"] == 128 else 10.0)
    search = tuner(on, sampler="grid", stop_slow=False)
    search.search()
    assert {t.state for t in search.trials} == {TrialState.COMPLETE}
    assert set(on.incumbents) == {None}


def test_a_slow_default_is_no_incumbent_to_beat_but_the_best_is() -> None:
    on = device(lambda config: 1000.0 if config == DEFAULT else bowl(config))
    tuner(on, budget=6).search()
    best = [None, 1000.0, *(min(map(bowl, on.measured[1:count])) for count in range(2, 6))]
    assert on.incumbents == best


# Recording and resuming


def test_a_trial_is_stored_before_anyone_hears_of_it() -> None:
    stored = new_study()
    heard: list[Config] = []

    def listen(event: Event) -> None:
        assert isinstance(event, TrialRecorded)
        trial = stored.trials()[len(heard)]
        assert trial.params == event.config
        assert outcome_of(trial) == event.outcome
        heard.append(event.config)

    on = device()
    tuner(on, budget=6, stored=stored, listener=listen).search()
    assert heard == on.measured
    assert len(heard) == 6


@pytest.mark.parametrize("sampler", ["grid-gp", "random", "coordinate", "tpe", "grid"])
def test_a_resumed_study_proposes_what_an_uninterrupted_one_would(sampler: str) -> None:
    whole = device()
    tuner(whole, budget=12, sampler=sampler).search()
    stored, parts = new_study(), device()
    for budget in (1, 2, 7, 12):
        tuner(parts, budget=budget, sampler=sampler, stored=stored).search()
    assert parts.measured == whole.measured
    assert [t.params for t in stored.trials()] == whole.measured


def test_a_finished_study_launches_nothing_when_resumed() -> None:
    stored = new_study()
    tuner(device(), budget=6, stored=stored).search()
    on = device()
    again = tuner(on, budget=6, stored=stored)
    again.search()
    assert on.compiled == []
    assert (again.launched_configs, len(again.trials)) == (6, 6)


@pytest.mark.parametrize(
    "ranges",
    [
        {"block_m": (16, 64, 512)},
        {"block_m": (16, 48, 56)},
        {"num_stages": (3,)},
        {"split_k": (3, 5, 12), "block_m": (64,)},
        {"split_k": (1,)},
    ],
)
@pytest.mark.parametrize("sampler", ["grid-gp", "random", "coordinate", "tpe", "grid"])
def test_a_study_goes_on_over_changed_ranges(ranges: dict[str, tuple[int, ...]], sampler: str) -> None:
    stored = new_study()
    tuner(device(), budget=8, stored=stored).search()
    before = keys([t.params for t in stored.trials()])
    space = SPACE.override(ranges)
    found = Candidates(space, np.ones(len(space), dtype=bool), {}, {})
    on = device()
    sampling = make_sampler(sampler, space.ranges, default=DEFAULT, valid=found.__contains__)
    proposer = SamplerProposer(sampling, space.ranges)
    changed = Tuner(PROBLEM, SPEC, on, stored, found, DEFAULT, proposer, TunerSettings(None))
    changed.search()
    assert set(keys(on.measured)) == set(keys(list(space))) - set(before)
    assert max(Counter(keys([t.params for t in stored.trials()])).values()) == 1
    assert keys([t.params for t in stored.trials()])[:8] == before


def test_trials_left_running_by_others_do_not_count(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    store = StudyStore(url)
    stored = store.open(StudyName(PROBLEM, H100.name, "fake"), H100)
    study = optuna.load_study(study_name=stored.name, storage=url)
    study.ask()
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    study.add_trial(optuna.trial.create_trial(value=1.0))  # somebody else's: it has no cost
    search = tuner(device(), budget=3, stored=stored)
    assert search.trials == []
    search.search()
    assert len(search.trials) == 3


def test_a_search_asked_to_stop_keeps_what_it_has() -> None:
    stop, stored = threading.Event(), new_study()
    on = device()
    on.on_measure = lambda config: stop.set() if len(on.measured) == 3 else None
    search = tuner(on, stored=stored, stop=stop, lookahead=3)
    with pytest.raises(InterruptedSearch):
        search.search()
    assert len(stored.trials()) == 4
    on = device()
    tuner(on, stored=stored).search()
    assert len(on.measured) == len(SPACE) + 1 - 4


def test_lookahead_keeps_that_many_compiling() -> None:
    """Builds end in another order than they started; trials are recorded in the order of proposals."""

    class Slow(FakeDevice):
        most = under_way = 0

        def compile(self, problem: LoraProblem, config: Config) -> Future:  # type: ignore[type-arg]
            build = super().compile(problem, config).result()
            with self.lock:
                self.under_way += 1
                self.most = max(self.most, self.under_way)

            def work() -> object:
                with self.lock:
                    self.under_way -= 1
                return build

            return threads.submit(work)

    with ThreadPoolExecutor(4) as threads:
        on = Slow(times=bowl, space=SPACE)
        search = tuner(on, lookahead=4, budget=20)
        search.search()
    assert [t.params for t in search.trials] == on.compiled
    assert 1 <= on.most <= 4
    assert search.launched_configs == 20


# Choosing


def test_the_fastest_finalist_wins() -> None:
    on = device()
    search = tuner(on, sampler="grid")
    search.search()
    choice = search.choose()
    assert choice is not None
    assert (choice.config, choice.time_us) == ({"block_m": 64, "num_stages": 3, "split_k": 8, **FIXED}, 10.0)
    assert choice.default_time_us == bowl(DEFAULT)
    assert on.remeasured[0][0] == DEFAULT
    assert len(on.remeasured[0]) == 4


def test_where_the_default_is_best_it_stays() -> None:
    search = tuner(device(lambda config: 1.0 if config == DEFAULT else bowl(config)), sampler="grid")
    search.search()
    choice = search.choose()
    assert choice is not None
    assert choice.config == DEFAULT


def test_slow_configs_are_no_finalists() -> None:
    on = device(lambda config: 100.0 if config["block_m"] == 128 else 10.0)
    search = tuner(on, sampler="grid", configs=[c for c in SPACE if c["block_m"] == 128])
    search.search()
    assert len(search.trials) == 7
    assert search.choose() is not None
    assert on.remeasured == [[DEFAULT]]


def test_a_measurement_that_fails_keeps_the_cost_of_its_compile() -> None:
    search = tuner(device(lambda config: WRONG if config != DEFAULT else 1.0), budget=4)
    search.search()
    outcomes = [outcome_of(t) for t in search.trials]
    assert [replace(o, launches=Counter()).launches.total() for o in outcomes] == [0] * 4
    assert [o.launches.total() for o in outcomes] == [11, 1, 1, 1]
    assert search.launched_configs == 4


def test_what_else_runs_untuned_is_tried_after_the_default_and_races(monkeypatch: pytest.MonkeyPatch) -> None:
    off_grid, on_grid = {**DEFAULT, "block_m": 96}, {**DEFAULT, "block_m": 64, "split_k": 4}
    monkeypatch.setattr(SPEC, "rivals", lambda _: [DEFAULT, on_grid, off_grid], raising=True)
    on = device()
    search = tuner(on, budget=4, lookahead=4)
    search.search()
    assert keys(on.measured)[:3] == keys([DEFAULT, on_grid, off_grid])
    assert len(on.measured) == search.launched_configs == 4
    chosen = search.choose()
    assert chosen is not None
    assert set(keys([DEFAULT, on_grid, off_grid])) <= set(chosen.times_us)
