"""Tuning recordings as if they were GPUs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
from helpers import SHRINK, SHRINK_BIG, sliced

from bo_tune.analysis.simulate import Run, document, simulate, summarise
from bo_tune.core.choices import MEMORY, SAMPLERS
from bo_tune.core.outcome import InvalidReason
from bo_tune.core.space import config_key
from bo_tune.formats.recording import RecordedConfig, Recording
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

RECORDING = sliced(SHRINK)
FIELDS = {
    "found_percent",
    "certificate",
    "recording", "sampler", "seed", "launched_configs", "launches", "invalid_proposed", "sampler_ms_per_trial",
    "regret_percent",
}  # fmt: skip


def runs(
    recordings: Sequence[Recording] = (RECORDING,),
    *,
    sampler: str = "random",
    budget: int | None = 12,
    seeds: Sequence[int] = (0,),
    history: Sequence[Recording] = (),
) -> list[Run]:
    return list(simulate(recordings, SessionSettings(sampler, budget), seeds=seeds, history=history))


def stable(run: Run) -> Run:
    return replace(run, sampler_ms_per_trial=0.0)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_each_sampler_can_be_simulated(sampler: str) -> None:
    (run,) = runs(sampler=sampler)
    assert set(asdict(run)) == FIELDS
    assert (run.recording, run.sampler, run.seed) == (RECORDING.path.name, sampler, 0)
    assert run.launched_configs == 12
    assert set(run.regret_percent) == {"10", "final"}
    assert min(run.regret_percent.values()) >= 0
    assert run.sampler_ms_per_trial > 0
    assert run.launches > 12 * 4


@pytest.mark.parametrize(
    ("budget", "checkpoints"),
    [(1, []), (9, []), (10, ["10"]), (19, ["10"]), (45, ["10", "20", "40"]), (None, ["10", "20", "40"])],
)
def test_regrets_that_the_budget_does_not_reach_are_left_out(budget: int | None, checkpoints: list[str]) -> None:
    (run,) = runs(budget=budget)
    assert list(run.regret_percent) == [*checkpoints, "final"]


def test_the_regret_at_a_checkpoint_is_that_of_a_search_with_that_budget() -> None:
    (run,) = runs(budget=45, seeds=[5])
    for checkpoint in (10, 20, 40):
        (alone,) = runs(budget=checkpoint, seeds=[5])
        assert run.regret_percent[str(checkpoint)] == alone.regret_percent["final"]
        assert alone.regret_percent["final"] == alone.regret_percent[str(checkpoint)]


def test_the_regret_is_the_recorded_one_of_what_would_be_written() -> None:
    (run,) = runs(seeds=[2])
    session = Session(StudyStore(MEMORY), SessionSettings(sampler="random", budget=12, seed=2))
    (tuned,) = session.run([replay_job(RECORDING, seed=2)])
    assert tuned.result is not None
    entry = RECORDING.entry(tuned.result.config)
    time_us = entry.time_us if entry else RECORDING.default_time_us
    assert time_us is not None
    assert run.regret_percent["final"] == pytest.approx(100 * (time_us / RECORDING.best_time_us - 1))
    assert run.launches == tuned.result.costs.launches
    assert run.invalid_proposed == len(tuned.trials) - 12


def test_the_whole_grid_leaves_next_to_no_regret() -> None:
    (run,) = runs(sampler="grid", budget=None)
    assert run.regret_percent["final"] < 5
    assert run.launched_configs == 1 + sum(entry.reason is None for entry in RECORDING.entries.values())


def test_seeds_differ_and_repeat() -> None:
    first, again = runs(seeds=[0, 1, 2]), runs(seeds=[0, 1, 2])
    assert list(map(stable, first)) == list(map(stable, again))
    assert [run.seed for run in first] == [0, 1, 2]
    assert len({run.regret_percent["10"] for run in first}) > 1


@pytest.mark.slow
def test_history_is_learnt_from_and_not_reported() -> None:
    history = [sliced(SHRINK_BIG), sliced(SHRINK, m=64)]
    taught = runs(sampler="grid-gp", history=history)
    assert [run.recording for run in taught] == [RECORDING.path.name]
    assert list(map(stable, taught)) == list(map(stable, runs(sampler="grid-gp", history=history)))
    assert stable(taught[0]) != stable(runs(sampler="grid-gp")[0])


def test_a_recording_never_teaches_itself() -> None:
    """The same folder may be given for both."""
    own, without = runs(sampler="grid-gp", history=[RECORDING]), runs(sampler="grid-gp")
    assert list(map(stable, own)) == list(map(stable, without))


def test_recordings_do_not_teach_each_other() -> None:
    other = sliced(SHRINK_BIG)
    together = runs([other, RECORDING], sampler="grid-gp")
    assert stable(together[1]) == stable(runs(sampler="grid-gp")[0])


def test_the_document_is_json_even_where_nothing_was_found() -> None:
    """A recording of which hardly a config runs, without a default time: a small budget may measure nothing."""
    valid = config_key(RECORDING.best)
    invalid = RecordedConfig(reason=InvalidReason.COMPILE_TIMEOUT, compile_s=8.0)
    entries = {key: entry if key == valid else invalid for key, entry in RECORDING.entries.items()}
    hard = replace(RECORDING, entries=entries, default_time_us=None)
    found = document(runs([hard, RECORDING], budget=1))
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["runs"][1]["regret_percent"]["final"] >= 0


def test_the_summary_is_over_the_runs_that_reached_a_checkpoint() -> None:
    def run(launched: int, **regrets: float) -> Run:
        return Run(
            "r", "random", 0, launched, 100, 1, 2.0, {name.strip("_"): x for name, x in regrets.items()}, {}, None
        )

    summary = summarise([run(10, _10=0.5, final=0.5), run(20, _10=10.0, _20=3.0, final=3.0), run(5, final=1.0)])
    assert summary["runs"] == 3
    assert "40" not in summary
    assert summary["20"]["runs"] == 1
    assert summary["10"]["mean_regret_percent"] == pytest.approx(5.25)
    assert summary["final"]["median_regret_percent"] == pytest.approx(1.0)
    assert summary["final"]["within_1_percent"] == pytest.approx(2 / 3)
    assert summary["final"]["within_5_percent"] == 1.0
    assert summary["mean_launched_configs"] == pytest.approx(35 / 3)
