"""Proposals of search processes: those that the same sampler makes here, and nothing left behind."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import pytest
from helpers import EXPAND, SHRINK, SHRINK_BIG, sliced

from bo_tune.core.choices import MEMORY
from bo_tune.core.conclusion import StopRule
from bo_tune.core.outcome import Outcome
from bo_tune.errors import DeviceError
from bo_tune.formats.recording import Recording
from bo_tune.measure.devices import replay_job
from bo_tune.measure.replay import ReplayDevice
from bo_tune.search.gp.correlation import Array, Indices
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.search_pool import OffloadedProposer, Recipe, SearchPool, _Close, _Prepare

pytestmark = pytest.mark.slow

RECORDINGS = [sliced(SHRINK), sliced(SHRINK_BIG), sliced(EXPAND)]


def recipe(recording: Recording) -> Recipe:
    space = recording.space
    valid, default = np.ones(len(list(space)), dtype=bool), recording.default_config
    return Recipe("grid-gp", dict(space.ranges), valid, default, recording.problem, recording.gpu, None, 0)


def no_price(indices: Indices) -> Array:
    return np.ones(len(indices))


def run(searchers: int, stop: StopRule | None = None) -> list[Tuned]:
    settings = SessionSettings(sampler="grid-gp", budget=25, searchers=searchers, stop_rule=stop)
    return Session(StudyStore(MEMORY), settings).run([replay_job(recording) for recording in RECORDINGS])


@pytest.mark.parametrize("stop", [None, StopRule()])
def test_a_search_process_proposes_what_the_sampler_would_here(stop: StopRule | None) -> None:
    here, there = run(0, stop), run(2, stop)
    for one, other in zip(here, there, strict=True):
        assert [t.params for t in other.trials] == [t.params for t in one.trials]
        assert one.result is not None
        assert other.result is not None
        assert other.result.certificate == one.result.certificate
        assert other.result.config == one.result.config


@pytest.mark.parametrize("fails", [False, True])
def test_a_study_is_forgotten_when_it_ends_however_it_ends(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    closed: list[OffloadedProposer] = []
    close = OffloadedProposer.close
    monkeypatch.setattr(OffloadedProposer, "close", lambda self: (closed.append(self), close(self))[1])
    if fails:

        def measure(*_: object, **__: object) -> Outcome:
            raise DeviceError("the GPU is gone")

        monkeypatch.setattr(ReplayDevice, "measure", measure)
    tuned = run(1)
    assert len(closed) == len(RECORDINGS)
    assert [t.result is None for t in tuned] == [fails] * len(RECORDINGS)


def test_a_search_process_keeps_to_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    close = SearchPool.close

    def counted(self: SearchPool) -> None:
        threads.extend(len(list(Path(f"/proc/{worker.pid}/task").iterdir())) for worker in self._workers)
        close(self)

    monkeypatch.setattr(SearchPool, "close", counted)
    run(1)
    assert threads == [1]


def test_a_model_that_is_to_be_prepared_for_a_study_that_ended_costs_no_other_study_its_process() -> None:
    """The two come from different threads."""
    pool = SearchPool(1)
    ended, other = (
        pool.proposer(recipe(recording), lambda indices: np.ones(len(indices))) for recording in RECORDINGS[:2]
    )
    pool.ask(ended._study, _Close(ended._study))
    pool.ask(ended._study, _Prepare(ended._study))
    assert other.propose().config
    pool.close()


def test_threads_that_share_a_process_wait_for_each_other() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pool = SearchPool(1)
    store = StudyStore(MEMORY)
    session = Session(store, SessionSettings(sampler="grid-gp", budget=8))
    session._search = pool
    tuners = [session.opener.open(replay_job(recording)) for recording in RECORDINGS]
    searches: list[Callable[[], None]] = [tuner.search for tuner in tuners]
    with ThreadPoolExecutor(len(tuners)) as threads:
        list(threads.map(lambda search: search(), searches))
    pool.close()
    assert [tuner.launched_configs for tuner in tuners] == [8] * len(tuners)
