"""``--progress json``: events as lines on stdout, of the documented keys, and nothing else there."""

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import BUNDLED, EXPAND, SHRINK, Cli, command, sliced, write_all

from bo_tune.core.conclusion import EndedBy, Ending
from bo_tune.core.events import (
    Event,
    GpuNoticed,
    StudyElsewhere,
    StudyFailed,
    StudyFinished,
    StudyLost,
    StudyStarted,
    TrialRecorded,
)
from bo_tune.core.outcome import Invalid, InvalidReason, Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.display.running import json_lines
from bo_tune.display.running.json_lines import EVENTS, OF_STUDY, STUDY_EVENTS, JsonLines

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
OF = ("a study", PROBLEM)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in text.splitlines()]


def check_keys(events: list[dict[str, Any]]) -> None:
    for one in events:
        name = one["event"]
        assert set(one) == {"event", "at", *(OF_STUDY if name in STUDY_EVENTS else ()), *EVENTS[name]}, one


@pytest.fixture
def replay(tmp_path: Path) -> str:
    grids = tmp_path / "grids"
    grids.mkdir()
    write_all(grids, sliced(SHRINK), sliced(EXPAND))
    return f"replay:{grids}"


def test_a_session_from_its_start_to_its_files(cli: Cli, replay: str) -> None:
    ran = cli("tune", "--device", replay, "--budget", 8, "--progress", "json", "--json", "x.json")
    assert (ran.code, ran.err) == (0, "")
    found = lines(ran.out)
    check_keys(found)
    counts = Counter(one["event"] for one in found)
    assert (counts["study_started"], counts["study_finished"], counts["trial_recorded"]) == (2, 2, 16)
    assert (found[0]["event"], found[0]["studies"], found[0]["schema"]) == ("session_started", 2, 1)
    document = json.loads(Path("x.json").read_text())
    last = {one["event"]: one for one in found}
    assert last["written"]["files"] == document["written"]
    ended = last["session_ended"]
    assert (ended["interrupted"], ended["studies_done"], ended["trials"]) == (False, 2, 16)
    studies = {one["study"]: one for one in document["studies"]}
    for one in found:
        if one["event"] == "study_finished":
            of_document = studies[one["study"]]
            assert (one["time_us"], one["ended"]) == (of_document["best_us"], of_document["ended"])


@pytest.mark.parametrize("name", ["tune", "grid"])
def test_quietly_too_and_again(cli: Cli, replay: str, name: str) -> None:
    words = (name, "--device", replay, "--budget", 4, "--progress", "json", "-q")
    first = cli(*words)
    again = lines(cli(*words).out)
    assert lines(first.out)[0]["event"] == again[0]["event"] == "session_started"
    check_keys(again)
    assert all(one["reused"] for one in again if one["event"] == "study_finished")


def test_stdout_is_for_one_thing(cli: Cli, replay: str) -> None:
    error = cli("tune", "--device", replay, "--progress", "json", "--json", "-").error
    assert error == "--json: --progress json already uses stdout; name a file instead"
    assert cli("tune", "--progress", "xml").error.startswith("--progress: ")


def test_every_event_has_the_keys_that_are_documented(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "FIGURES_EVERY_S", 0.01)
    config = {"block_m": 16}
    events: list[Event] = [
        StudyStarted(*OF, recorded=0, candidates=100),
        TrialRecorded(*OF, config, Measurement((5.0, 6.0, 7.0)), 5.0, 6.0, 0.5),
        TrialRecorded(*OF, config, Invalid(InvalidReason.WRONG_RESULT, "off by one"), 5.0),
        StudyFinished(*OF, 5.0, 6.0, 2, 2, False, Ending(EndedBy.SURE, 2, 0.91), 0.002),
        StudyFinished(*OF, None, None, 2, 0, False),
        StudyFailed(*OF, "no GPU"),
        StudyLost(*OF, "too late"),
        StudyElsewhere(*OF, "host", 7),
        GpuNoticed("busy", spoils=True),
    ]
    with JsonLines({"command": "tune", "version": "1", "studies": 1, "storage": "memory"}) as told:
        for event in events:
            told(event)
        told.note("something")
        told.interrupted(["kept", "  bo-tune tune"])
    told.tell("written", files=[])
    found = lines(capsys.readouterr().out)
    check_keys(found)
    assert {one["event"] for one in found} | {"figures"} == set(EVENTS)
    assert [one["text"] for one in found if one["event"] == "note"] == ["something", "kept", "bo-tune tune"]
    assert [one["interrupted"] for one in found if one["event"] == "session_ended"] == [True]
    trials = [one for one in found if one["event"] == "trial_recorded"]
    assert [(one["reason"], one["detail"]) for one in trials] == [(None, None), ("wrong result", "off by one")]
    finished = next(one for one in found if one["event"] == "study_finished")
    assert (finished["ended"], finished["probability"], finished["expected_loss_percent"]) == ("sure", 0.91, 0.2)


@pytest.mark.slow
def test_an_interruption_is_told_as_an_event(tmp_path: Path) -> None:
    words = command("tune", "--device", f"replay:{BUNDLED}", "--progress", "json", "--seed", 3)
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(json.loads(line))
            if seen[-1]["event"] == "trial_recorded" and process.poll() is None:
                os.kill(process.pid, signal.SIGINT)
                break
        seen += lines(process.stdout.read())
        assert process.wait() == 130
    check_keys(seen)
    assert seen[-1]["event"] == "session_ended"
    assert seen[-1]["interrupted"]
