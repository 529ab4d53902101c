"""Exported studies that were damaged: each is refused in a line, and none of it reaches a database."""

import copy
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import SHRINK, sliced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bo_tune.analysis.listing import list_studies, study_detail
from bo_tune.analysis.review import review
from bo_tune.core.choices import MEMORY
from bo_tune.errors import RecordingError
from bo_tune.formats.recording import read_recording
from bo_tune.measure.devices import replay_job
from bo_tune.session.exchange import export_study, import_study
from bo_tune.session.exported import read_exported
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.history import Histories

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """An export of a finished study with complete, slow and invalid trials."""
    store = StudyStore(MEMORY)
    Session(store, SessionSettings(budget=16, bundled=False)).run([replay_job(sliced(SHRINK))])
    (summary,) = store.summaries()
    path = export_study(summary, store.trials_of([summary])[summary.name], tmp_path_factory.mktemp("exported"))
    assert path is not None
    path = path.rename(path.with_name("x.t4.json.gz"))

    content: Document = json.loads(gzip.decompress(path.read_bytes()))
    states = {trial["state"] for trial in trials(content)}
    assert states == {"COMPLETE", "PRUNED"}
    return content


def section(content: Document) -> Document:
    found: Document = content["metadata"]["bo_tune"]
    return found


def trials(content: Document) -> list[Document]:
    found: list[Document] = section(content)["trials"]
    return found


def attributes(content: Document) -> Document:
    found: Document = section(content)["attributes"]
    return found


def result(content: Document) -> Document:
    found: Document = attributes(content)["bo_tune:result"]
    return found


def of_state(content: Document, state: str, reason: str | None = None) -> Document:
    return next(t for t in trials(content) if t["state"] == state and t["attributes"].get("reason") == reason)


def entry(content: Document, trial: Document) -> Document:
    return next(r for r in content["results"] if r["configuration"] == trial["config"])


def renamed(content: Document, old: str, new: str | None) -> None:
    """Give a parameter another name everywhere, or drop it."""
    finalists = [config for config, _ in result(content)["finalists"]]
    configs = [r["configuration"] for r in content["results"]] + [t["config"] for t in trials(content)]
    for config in [*configs, *finalists, result(content)["config"]]:
        value = config.pop(old)
        if new is not None:
            config[new] = value


def timed(content: Document, time: Any) -> None:
    """Let a complete trial have taken another time, everywhere."""
    trial = of_state(content, "COMPLETE")
    found = entry(content, trial)
    found["times"]["runtimes"] = [time] * 10
    for measurement in found["measurements"]:
        if measurement["name"] == "time":
            measurement["value"] = time
    trial["value"] = time


DAMAGES: dict[str, Callable[[Document], object]] = {
    # of times
    "a time below zero": lambda c: timed(c, -1.0),
    "a time of zero": lambda c: timed(c, 0.0),
    "a time too short to be": lambda c: timed(c, 1e-320),
    "a time too long to be": lambda c: timed(c, 1e300),
    "a time beyond all numbers": lambda c: timed(c, 10**400),
    "a time in words": lambda c: timed(c, "5.0"),
    "a time of another kind": lambda c: timed(c, True),
    "no time": lambda c: of_state(c, "COMPLETE").update(value=None),
    "another time than measured": lambda c: of_state(c, "COMPLETE").update(value=1.5),
    "another estimate than measured": lambda c: of_state(c, "PRUNED", "slow").update(estimate=1.5),
    "a time of what could not run": lambda c: of_state(c, "PRUNED", "slow").update(value=9.0),
    "repetitions elsewhere": lambda c: of_state(c, "COMPLETE")["attributes"].update(runtimes_us=[1.0]),
    "an end before the beginning": lambda c: trials(c)[0].update(complete="2020-01-01T00:00:00+00:00"),
    "no moment": lambda c: trials(c)[0].update(start="yesterday"),
    "a moment of nowhere": lambda c: trials(c)[0].update(start="2026-01-02T03:04:05"),
    "a moment out of the world": lambda c: trials(c)[0].update(start="0001-01-01T00:00:00+00:00"),
    # of states and reasons
    "a trial under way": lambda c: trials(c)[0].update(state="RUNNING"),
    "a trial that failed": lambda c: trials(c)[0].update(state="FAIL"),
    "a trial that waits": lambda c: trials(c)[0].update(state="WAITING"),
    "a complete one called slow": lambda c: of_state(c, "COMPLETE")["attributes"].update(reason="slow"),
    "a slow one called complete": lambda c: of_state(c, "PRUNED", "slow").update(state="COMPLETE"),
    "a reason nobody knows": lambda c: of_state(c, "PRUNED", "slow")["attributes"].update(reason="bad mood"),
    "no reason": lambda c: of_state(c, "PRUNED", "slow")["attributes"].pop("reason"),
    "no cost": lambda c: trials(c)[0]["attributes"].pop("cost"),
    "launches below zero": lambda c: trials(c)[0]["attributes"]["cost"]["launches"].update(check=-1),
    "launches for nothing known": lambda c: trials(c)[0]["attributes"]["cost"]["launches"].update(fun=1),
    "a compile below zero": lambda c: trials(c)[0]["attributes"]["cost"].update(compile_s=-1.0),
    "an error that is a text": lambda c: trials(c)[0]["attributes"]["cost"].update(relative_error="small"),
    "half a trial": lambda c: trials(c)[0].pop("state"),
    "more than a trial": lambda c: trials(c)[0].update(mood="good"),
    # of configs
    "a parameter of another name": lambda c: renamed(c, "split_k", "k_split"),
    "a parameter less": lambda c: renamed(c, "split_k", None),
    "the same config twice": lambda c: trials(c).append(copy.deepcopy(trials(c)[0])),
    "a config without a trial": lambda c: trials(c).pop(),
    "a trial without a config": lambda c: c["results"].pop(),
    "a value of zero": lambda c: trials(c)[0]["config"].update(block_m=0),
    "a value that is no power of two": lambda c: [
        one["config" if "config" in one else "configuration"].update(block_m=48)
        for one in (trials(c)[1], entry(c, trials(c)[1]))
    ],
    "a value with a fraction": lambda c: trials(c)[0]["config"].update(block_m=16.5),
    "a value in words": lambda c: trials(c)[0]["config"].update(block_m="16"),
    "a value without end": lambda c: trials(c)[0]["config"].update(block_m=10**20),
    # of the result
    "a result below zero": lambda c: result(c).update(time_us=-1.0),
    "a result of nothing tried": lambda c: result(c)["config"].update(block_m=512),
    "a finalist of nothing tried": lambda c: result(c)["finalists"][1][0].update(block_m=512),
    "no finalists": lambda c: result(c).update(finalists=[]),
    "more trials than there are": lambda c: result(c).update(trials=1000),
    "a default time of nothing": lambda c: result(c).update(default_time_us=1.25),
    "a sampler nobody knows": lambda c: result(c).update(sampler="oracle"),
    "a date nobody knows": lambda c: result(c).update(date="soon"),
    "surer than sure": lambda c: result(c)["certificate"].update(probability=7.0),
    "costs below zero": lambda c: result(c)["costs"].update(launches=-5),
    "other costs": lambda c: result(c)["costs"].update(configs=3),
    "half a result": lambda c: result(c).pop("costs"),
    "a result of another search": lambda c: result(c)["asked"].update(seed=5),
    # of the study
    "other figures": lambda c: attributes(c)["bo_tune:figures"]["states"].update(COMPLETE=1),
    "figures below zero": lambda c: attributes(c)["bo_tune:figures"].update(trials=-1),
    "a space below zero": lambda c: attributes(c)["bo_tune:space"].update(size=-1),
    "another toolchain": lambda c: attributes(c)["bo_tune:origin"].update(triton="9.9"),
    "versions that are no texts": lambda c: attributes(c)["bo_tune:origin"].update(triton=3.6),
    "a job of another sampler": lambda c: attributes(c)["bo_tune:job"].update(sampler="tpe"),
    "half a job": lambda c: attributes(c)["bo_tune:job"].pop("finalists"),
    "a job done with another seed": lambda c: attributes(c)["bo_tune:done"].update(seed=3),
    "an attribute nobody knows": lambda c: attributes(c).update({"bo_tune:mood": "good"}),
    "another GPU": lambda c: section(c)["study"].update(gpu="NVIDIA H200"),
    "a GPU that is a path": lambda c: [o.update(gpu="../../x") for o in (section(c)["study"], c["metadata"])],
    "a GPU of two lines": lambda c: [o.update(gpu="a\nb") for o in (section(c)["study"], c["metadata"])],
    "a GPU without end": lambda c: c["metadata"]["gpu_info"].update(sm_count=10**20),
    "a kernel that is a path": lambda c: [
        o.update(kernel="../x") for o in (section(c)["study"]["problem"], c["metadata"])
    ],
    "another problem": lambda c: section(c)["study"]["problem"].update(m=17),
    "sizes without end": lambda c: [
        o.update(m=10**20) for o in (section(c)["study"]["problem"], c["metadata"]["shape"])
    ],
    "a study set aside": lambda c: section(c)["study"].update(set_aside="2026-01-02"),
    "a study of no toolchain": lambda c: section(c)["study"].pop("toolchain"),
    "a study that is exhaustive perhaps": lambda c: section(c)["study"].update(exhaustive="perhaps"),
    "a study of nothing": lambda c: section(c).update(study={}),
    "no study": lambda c: c["metadata"].pop("bo_tune"),
    "no trials": lambda c: section(c).update(trials=[]),
    "another version": lambda c: section(c).update(version=3),
}


def write(content: Document, path: Path) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def intact(document: Document, tmp_path: Path) -> Path:
    return write(document, tmp_path / "intact.t4.json")


def test_an_intact_one_is_read(intact: Path) -> None:
    exported = read_exported(read_recording(intact, any_kernel=True))
    store = StudyStore(MEMORY)
    assert import_study(store, exported).has_result
    assert store.unreadable == {}
    assert len(store.summaries()) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_refused_in_a_line(document: Document, tmp_path: Path, damage: str) -> None:
    content = copy.deepcopy(document)
    DAMAGES[damage](content)
    path = write(content, tmp_path / "damaged.t4.json")
    with pytest.raises(RecordingError) as caught:
        read_exported(read_recording(path, any_kernel=True))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a document, in order."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places(one, (*path, key)))]


def refusal(path: Path) -> str | None:
    """Why a file is refused, if it is."""
    try:
        read_exported(read_recording(path, any_kernel=True))
    except RecordingError as error:
        return str(error)
    return None


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5),
    st.sampled_from([-1, 0, 10**20, 10**400, -0.0, 1e-320, 1e308, "\n", "../x", "RUNNING", [], {}, [[]], {"a": 1}]),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_it_is_refused_in_a_line_or_harmless(
    document: Document, tmp_path: Path, data: st.DataObject
) -> None:
    content = copy.deepcopy(document)
    part = data.draw(st.sampled_from([content["metadata"], content["metadata"], content["results"]]))
    *above, last = data.draw(st.sampled_from([place for place in places(part) if place]))
    owner = part
    for key in above:
        owner = owner[key]
    action = data.draw(st.sampled_from(["replace", "remove", "repeat"]))
    if action == "remove":
        del owner[last]
    elif action == "repeat" and isinstance(owner, list):
        owner.append(copy.deepcopy(owner[last]))
    else:
        owner[last] = data.draw(ODD)
    path = write(content, tmp_path / "changed.t4.json")
    error = refusal(path)
    if error is not None:
        assert error.startswith(f"{path}: ")
        assert "\n" not in error
        return
    exported = read_exported(read_recording(path, any_kernel=True))
    store = StudyStore(MEMORY)
    import_study(store, exported)
    assert store.unreadable == {}
    (listing,) = list_studies(store)
    study_detail(store, listing)
    review(store)
    other = replay_job(sliced(SHRINK, m=32))
    Histories(store, bundled=False).of(other.problem, other.device.gpu)
    Session(store, SessionSettings(budget=3, bundled=False)).run([replay_job(sliced(SHRINK))])


def test_an_exported_study_of_schema_1_is_told_of_and_never_current(document: Document, tmp_path: Path) -> None:
    content = copy.deepcopy(document)
    section(content).update(version=1)
    for name in ("toolchain", "search"):
        section(content)["study"].pop(name, None)
    result(content).pop("asked")
    exported = read_exported(read_recording(write(content, tmp_path / "v1.t4.json"), any_kernel=True))
    store = StudyStore(MEMORY)
    assert import_study(store, exported).has_result
    (tuned,) = Session(store, SessionSettings(budget=16, bundled=False)).run([replay_job(sliced(SHRINK))])
    assert not tuned.kept
    assert len(tuned.trials) - tuned.resumed == 16
    assert replace(tuned.name, toolchain="", search="") == exported.name
