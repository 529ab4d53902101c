"""The stop rule's certificate and the price of compiling, from the sampler to the table."""

import json
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from helpers import BUNDLED, EXPAND, FakeDevice

from bo_tune.analysis.listing import list_studies
from bo_tune.core.choices import MEMORY
from bo_tune.core.conclusion import StopRule
from bo_tune.core.outcome import Compilation, Resources
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace, config_key
from bo_tune.engines.folder import read_provenance, write_tables
from bo_tune.formats.recording import read_recording
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.devices import job_of, replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.tuner import take_ready

pytestmark = pytest.mark.slow

PROBLEM = LoraProblem("lora_expand", 4, 1, 64, 16, 4096, add_inputs=True)
SPACE = SearchSpace.of(
    {
        "block_m": (16, 32, 64, 128),
        "block_n": (32, 64, 128, 256),
        "block_k": (16, 32, 64, 128),
        "num_warps": (4, 8),
        "num_stages": (2, 3, 4, 5),
        "num_ctas": (1,),
    }
)


def smooth_us(config: Config) -> float:
    return 10.0 + abs(config["block_m"].bit_length() - 6) + 2.0 * abs(config["block_n"].bit_length() - 7)


def test_an_easy_study_ends_before_its_budget_and_says_how_sure_it_is(tmp_path: Path) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/studies.db")
    settings = SessionSettings(budget=200, stop_rule=StopRule())
    session = Session(store, settings)
    (tuned,) = session.run([job_of(PROBLEM, FakeDevice(smooth_us, SPACE))])
    assert tuned.result is not None
    assert tuned.result.certificate is not None
    assert StopRule().least <= tuned.result.costs.launched_configs < 200
    assert tuned.result.certificate.probability > 0.9
    (table,) = write_tables(tmp_path, session.entries([tuned]))
    (origin,) = read_provenance(table).values()
    assert origin.certificate == tuned.result.certificate.to_json()
    (listed,) = list_studies(store)
    assert listed.certificate == tuned.result.certificate
    assert json.loads(json.dumps(listed.to_json()))["certificate"] == tuned.result.certificate.to_json()
    store.close()


def test_a_study_that_ended_by_the_rule_stays_ended(tmp_path: Path) -> None:
    trials = []
    for _ in range(2):
        store = StudyStore(f"sqlite:///{tmp_path}/studies.db")
        on = FakeDevice(smooth_us, SPACE)
        (tuned,) = Session(store, SessionSettings(budget=200, stop_rule=StopRule())).run([job_of(PROBLEM, on)])
        trials.append((len(tuned.trials), len(on.measured)))
        store.close()
    (first, measured), (second, measured_again) = trials
    assert first == second == measured
    assert measured_again == 0


def test_no_more_is_started_than_the_rule_will_have_measured() -> None:
    on = FakeDevice(smooth_us, SPACE)
    settings = SessionSettings(budget=60, stop_rule=StopRule(most=12, risk=0.0), in_flight=1, compilers=8)
    (tuned,) = Session(StudyStore(MEMORY), settings).run([job_of(PROBLEM, on)])
    assert len(tuned.trials) == len(on.compiled) == 12


class Slow(FakeDevice):
    """Never done compiling the third and the fifth config."""

    withdrawn: list[dict[str, int]]

    def compile(self, problem: LoraProblem, config: Config) -> Future[Build]:
        build = super().compile(problem, config)
        return Future() if len(self.compiled) in (3, 5) else build

    def withdraw(self, problem: LoraProblem, config: Config) -> None:
        self.withdrawn.append(dict(config))


def test_a_study_that_is_sure_waits_for_no_compile() -> None:
    on = Slow(smooth_us, SPACE)
    on.withdrawn = []
    settings = SessionSettings(budget=200, stop_rule=StopRule(), in_flight=1, compilers=1)
    (tuned,) = Session(StudyStore(MEMORY), settings).run([job_of(PROBLEM, on)])
    assert tuned.result is not None
    assert tuned.result.ended_by is not None
    assert len(on.compiled) == len(tuned.trials) + 2
    assert on.withdrawn == [on.compiled[2], on.compiled[4]]
    assert not [trial for trial in tuned.trials if trial.params in (on.compiled[2], on.compiled[4])]
    assert tuned.result.certificate is not None
    assert tuned.result.certificate.tried == len(tuned.trials)
    assert tuned.result.certificate.expected_loss is not None


def test_a_search_that_could_end_counts_on_what_is_under_way() -> None:
    under_way = deque([Future[Build](), Future[Build]()])
    begun = time.monotonic()
    assert take_ready(under_way, lambda build: build, within_s=0.05) is None
    assert time.monotonic() - begun >= 0.05
    under_way[1].set_result(Compiled(Compilation(1.0), Resources()))
    second = under_way[1]
    assert take_ready(under_way, lambda build: build) is second
    assert len(under_way) == 1


def test_a_study_begins_with_the_default_before_it_knows_its_candidates() -> None:
    order = list[str]()

    class Noting(FakeDevice):
        def expect(self, problem: LoraProblem) -> None:
            order.append("expect")

        def compile(self, problem: LoraProblem, config: Config) -> Future[Build]:
            order.append("compile")
            return super().compile(problem, config)

        def effective_configs(self, problem: LoraProblem, configs: Sequence[Config]) -> list[Config]:
            order.append("candidates")
            return super().effective_configs(problem, configs)

    on = Noting(smooth_us, SPACE)
    (tuned,) = Session(StudyStore(MEMORY), SessionSettings(budget=3)).run([job_of(PROBLEM, on)])
    assert order[:3] == ["expect", "compile", "candidates"]
    assert len(on.compiled) == len(tuned.trials) == 3, "the default is compiled once"


def test_without_a_rule_the_budget_is_spent() -> None:
    (tuned,) = Session(StudyStore(MEMORY), SessionSettings(budget=30)).run(
        [job_of(PROBLEM, FakeDevice(smooth_us, SPACE))]
    )
    assert tuned.launched_configs == 30


@pytest.mark.parametrize("sampler", ["random", "tpe", "coordinate"])
def test_samplers_without_a_model_certify_nothing(sampler: str) -> None:
    settings = SessionSettings(sampler=sampler, budget=12, stop_rule=StopRule())
    (tuned,) = Session(StudyStore(MEMORY), settings).run([job_of(PROBLEM, FakeDevice(smooth_us, SPACE))])
    assert tuned.result is not None
    assert tuned.result.certificate is None
    assert tuned.launched_configs == 12


def test_binaries_that_exist_are_preferred() -> None:
    compiled = frozenset(config_key(config) for config in SPACE if config["num_stages"] == 3)
    shares = []
    for binaries in (frozenset(), compiled):
        device = FakeDevice(smooth_us, SPACE, there=binaries)
        (tuned,) = Session(StudyStore(MEMORY), SessionSettings(budget=25)).run([job_of(PROBLEM, device)])
        shares.append(sum(config_key(trial.params) in compiled for trial in tuned.trials))
    assert shares[1] > shares[0]


def test_a_replayed_grid_is_certified_within_what_was_found() -> None:
    recording = read_recording(BUNDLED / EXPAND)
    settings = SessionSettings(budget=80, stop_rule=StopRule())
    (tuned,) = Session(StudyStore(MEMORY), settings).run([replay_job(recording)])
    assert tuned.result is not None
    time_us = recording.time_us(tuned.result.config)
    assert time_us is not None
    assert time_us <= 1.05 * recording.best_time_us


def test_what_others_teach_later_does_not_open_an_ended_study_again(tmp_path: Path) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/studies.db")
    settings = SessionSettings(budget=60, stop_rule=StopRule())
    recording = read_recording(BUNDLED / EXPAND)
    (first,) = Session(store, settings).run([replay_job(recording)])
    assert first.result is not None
    assert first.result.ended_by is not None
    others = [read_recording(path) for path in sorted(BUNDLED.glob("h100.lora_expand.*")) if path.name != EXPAND]
    Session(store, settings).run([replay_job(other) for other in others])
    (again,) = Session(store, settings).run([replay_job(recording)])
    assert len(again.trials) == len(first.trials)
    assert again.result == first.result
    (more,) = Session(store, SessionSettings(budget=60)).run([replay_job(recording)])
    assert more.launched_configs == 60
    store.close()
