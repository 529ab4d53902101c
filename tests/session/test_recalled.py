"""Finished studies found again by the state of the host that named them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers import EXPAND, H100, SHRINK, sliced, sqlite_url
from moe_recordings import small
from one_launch_recordings import one_launch

from bo_tune.core.choices import MoePathChoice
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Problem
from bo_tune.engines.models.layers_around import mixtures
from bo_tune.errors import DeviceError
from bo_tune.measure.described import DescribedDevice
from bo_tune.measure.device import Remeasured
from bo_tune.measure.devices import Job, replay_job
from bo_tune.measure.host_state import HostState
from bo_tune.measure.replay import VERSIONS
from bo_tune.session.recalled import recalled_jobs, said_of
from bo_tune.session.session import Session, SessionSettings, Tuned
from bo_tune.store.attributes import DONE_ATTR, HOSTS_ATTR
from bo_tune.store.looking import looking_at
from bo_tune.store.storage import MOST_HOSTS, StudyStore

DECIDING = ("fused_moe_lora_w13", "fused_moe_lora_w2")
RANDOM = SessionSettings(sampler="random", budget=8)
STATE = "0123"


def jobs_of(state: str | None = STATE, gpus: tuple[str, ...] = (H100.name,)) -> list[Job]:
    """Two problems, measured by devices that were opened in a state of the host."""
    jobs = [replay_job(sliced(SHRINK)), replay_job(sliced(EXPAND))]
    for job in jobs:
        job.device.host = HostState(state, gpus) if state is not None else None
    return jobs


def run(url: str, settings: SessionSettings, jobs: list[Job]) -> list[Tuned]:
    with StudyStore(url) as store:
        session = Session(store, settings)
        tuned = session.run(jobs)
        session.settle()
    return tuned


def recalled(
    url: str,
    settings: SessionSettings = RANDOM,
    problems: list[Problem] | None = None,
    state: str | None = STATE,
    **more: Any,
) -> list[Job] | None:
    path, layers = more.pop("path", MoePathChoice.AUTO), more.pop("layers", {})
    wanted = [job.problem for job in jobs_of()] if problems is None else problems
    conditions = more.pop("conditions", Conditions())
    with looking_at(url) as reader:
        return recalled_jobs(
            reader,
            lambda: state,
            wanted,
            settings,
            conditions,
            layers=layers,
            path=path,
            times_in_place=bool(layers),
        )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "x.db")


def test_what_is_done_is_found_without_a_device_and_ends_as_it_did(url: str) -> None:
    jobs = jobs_of()
    first = run(url, RANDOM, jobs)
    found = recalled(url)
    assert found is not None
    assert [job.problem for job in found] == [job.problem for job in jobs]
    assert all(isinstance(job.device, DescribedDevice) for job in found)
    again = run(url, RANDOM, found)
    assert [one.result for one in again] == [one.result for one in first]
    assert [(one.kept, one.tried, one.resumed) for one in again] == [(True, 8, 8)] * 2
    assert [one.name for one in again] == [one.name for one in first]
    assert recalled(url, problems=[jobs[1].problem]) is not None


@pytest.mark.parametrize(
    ("settings", "state", "more"),
    [
        (RANDOM, "another", {}),
        (RANDOM, None, {}),
        (replace(RANDOM, budget=9), STATE, {}),
        (replace(RANDOM, seed=1), STATE, {}),
        (replace(RANDOM, sampler="grid", budget=None), STATE, {}),
        (replace(RANDOM, spaces={"lora_shrink": {"block_m": (16,)}}), STATE, {}),
        (RANDOM, STATE, {"conditions": Conditions(adapters=1)}),
        (RANDOM, STATE, {"problems": [replace(jobs_of()[0].problem, m=4)]}),  # type: ignore[call-arg]
    ],
)
def test_what_is_asked_otherwise_is_not_found(
    url: str, settings: SessionSettings, state: str | None, more: dict[str, Any]
) -> None:
    run(url, RANDOM, jobs_of())
    assert recalled(url, settings, state=state, **more) is None


def test_nothing_is_asked_of_the_host_where_a_study_is_missing(url: str) -> None:
    run(url, RANDOM, jobs_of()[:1])

    def digest() -> str:
        raise AssertionError("asked")

    with looking_at(url) as reader:
        problems = [job.problem for job in jobs_of()]
        none = recalled_jobs(
            reader,
            digest,
            problems,
            RANDOM,
            Conditions(),
            layers={},
            path=MoePathChoice.AUTO,
            times_in_place=False,
        )
    assert none is None


def rerun(url: str) -> None:
    """Another budget's trials come after the result."""
    run(url, replace(RANDOM, budget=10), jobs_of())


def unfinish(url: str) -> None:
    """A study was not brought to its end."""
    with StudyStore(url) as store:
        store.load(store.summaries()[0].name).set_attribute(DONE_ATTR, None)


def ask_by_hand(url: str) -> None:
    """Somebody else has begun a trial."""
    with StudyStore(url) as store:
        name = str(store.summaries()[0].name)
    optuna.load_study(study_name=name, storage=optuna.storages.RDBStorage(url)).ask()


@pytest.mark.parametrize("change", [rerun, unfinish, ask_by_hand])
def test_what_is_no_longer_done_is_not_found(url: str, change: Callable[[str], None]) -> None:
    run(url, RANDOM, jobs_of())
    assert recalled(url) is not None
    change(url)
    assert recalled(url) is None


def test_what_was_opened_with_gpus_of_two_types_needs_the_studies_of_both(url: str) -> None:
    run(url, RANDOM, jobs_of(gpus=(H100.name, "NVIDIA Other")))
    assert recalled(url) is None


def test_a_toolchain_that_says_otherwise_is_not_taken(url: str) -> None:
    run(url, RANDOM, jobs_of())
    with StudyStore(url) as store:
        for summary in store.summaries():
            store.load(summary.name).set_attribute("bo_tune:origin", {"triton": "another"})
    assert recalled(url) is None


def test_a_study_knows_the_last_states_of_hosts_alone(url: str) -> None:
    run(url, RANDOM, jobs_of(None))
    with looking_at(url) as reader:
        assert not reader.attribute_of(HOSTS_ATTR)
    states = [f"{number:04}" for number in range(MOST_HOSTS + 2)]
    for state in [*states, states[4]]:
        run(url, RANDOM, jobs_of(state))
    with looking_at(url) as reader:
        known = reader.attribute_of(HOSTS_ATTR).values()
    assert {tuple(hosts) for hosts in known} == {tuple(states[2:])}
    assert recalled(url, state=states[0]) is None
    assert recalled(url, state=states[-1]) is not None


def test_a_device_that_cannot_be_asked_any_more_says_nothing() -> None:
    job = jobs_of()[0]
    assert said_of(job) == {"gpus": [H100.name], "decided_by": [], "note": None}
    assert said_of(jobs_of(None)[0]) is None

    def gone(problem: Problem) -> tuple[str, ...]:
        raise DeviceError("the compilers are gone")

    first = jobs_deciding()[0]
    assert said_of(first) == {"gpus": [H100.name], "decided_by": list(DECIDING), "note": None}
    first.device.decided_by = gone  # type: ignore[method-assign]
    assert said_of(first) is None


def jobs_deciding() -> list[Job]:
    """The four kernels of experts, and the two that decide on them."""
    recordings = small(16)
    versions = {name: recordings[0].metadata[name] for name in VERSIONS if name in recordings[0].metadata}
    for recording in one_launch(16, {16: (9.0, 9.0), 32: (8.0, 9.5)}):
        recordings.append(replace(recording, metadata={**recording.metadata, **versions}))
    jobs = [replay_job(recording) for recording in recordings]
    for job in jobs:
        job.device.host = HostState(STATE, (H100.name,))
        job.device.decided_by = lambda problem: DECIDING  # type: ignore[method-assign]
    return jobs


def test_kernels_that_decide_for_others_are_found_with_them(url: str) -> None:
    jobs = jobs_deciding()
    settings = replace(RANDOM, budget=4)
    first = run(url, settings, jobs)
    problems = [job.problem for job in jobs if not job.spec.decides]
    found = recalled(url, settings, problems)
    assert found is not None
    assert [job.problem for job in found] == [job.problem for job in jobs]
    again = run(url, settings, found)
    assert [one.result for one in again] == [one.result for one in first]
    assert all(one.kept for one in again)
    assert recalled(url, settings, problems, path=MoePathChoice.TWO_KERNELS) is None


def test_experts_whose_deciding_kernels_ended_in_their_layer_are_found_too(url: str) -> None:
    """The four that are decided for ended alone: no engine launches them."""

    def no_room(problems: Sequence[Problem], choices: Sequence[object], rounds: int, around: object) -> Remeasured:
        return Remeasured([() for _ in choices], Counter())

    jobs = jobs_deciding()
    (layer,) = mixtures(job.problem for job in jobs)
    jobs = [replace(job, layer=layer) for job in jobs]
    for job in jobs:
        job.device.times_in_place = True
        job.device.remeasure_in_place = no_room  # type: ignore[method-assign, assignment]
    settings = replace(RANDOM, budget=4)
    tuned = run(url, settings, jobs)
    assert {one.job.spec.decides for one in tuned if one.result and "in_place" in (one.result.asked or {})} == {True}
    problems = [job.problem for job in jobs if not job.spec.decides]
    found = recalled(url, settings, problems, layers=dict.fromkeys(problems, layer))
    assert found is not None
    assert recalled(url, settings, problems) is None, "alone was not asked for"
