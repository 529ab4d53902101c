"""``bo-tune worker`` as a command, and the options of several GPUs."""

import json
from pathlib import Path

import pytest
from helpers import EXPAND, SHRINK, Cli, sliced, sqlite_url, write_all

from bo_tune.analysis.listing import list_studies
from bo_tune.core.choices import LEASE_S, MEMORY
from bo_tune.errors import DeviceError
from bo_tune.measure.devices import replay_jobs
from bo_tune.measure.replay import ReplayDevice
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_all(tmp_path / "recordings", sliced(SHRINK), sliced(SHRINK, m=32), sliced(EXPAND))


@pytest.fixture
def url(recordings: Path, tmp_path: Path) -> str:
    """A database in which a session has left its studies."""
    url = sqlite_url(tmp_path / "x.db")
    store = StudyStore(url)
    Session(store, SessionSettings(sampler="random", budget=6)).register(replay_jobs(recordings))
    store.close()
    return url


def test_it_does_what_is_left_and_says_so(cli: Cli, recordings: Path, url: str) -> None:
    where = ("--storage", url, "--device", f"replay:{recordings}")
    ran = cli("worker", *where)
    assert (ran.code, ran.err) == (0, "")
    assert "[3] tuned" in ran.out
    assert "nothing is left to do: 3 studies finished, 18 trials recorded by this run" in ran.out
    again = cli("worker", *where)
    assert again.code == 0
    assert "nothing is left to do: 0 studies finished" in again.out


def test_show_tells_who_works_on_what(cli: Cli, url: str) -> None:
    store = StudyStore(url, lease_s=LEASE_S)
    name = store.summaries()[0].name
    assert store.load(name).take()
    (held,) = [study for study in list_studies(store) if study.holder]
    assert held.name == name
    ran = cli("show", "--storage", url)
    (line,) = [line for line in ran.out.splitlines() if line.startswith("under way:")]
    assert str(name) in line
    assert held.holder is not None
    assert f"{held.holder.host}, process {held.holder.pid}, last heard from 0 s ago" in line
    store.close()
    assert "under way:" not in cli("show", "--storage", url).out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("worker", "--storage", MEMORY), "--storage"),
        (("worker", "--storage", "sqlite:///missing.db"), "no such database"),
        (("worker", "--device", "cuda:x"), "--device"),
        (("worker", "--device", "cuda:1", "--gpus", "all"), "--gpus"),
        (("worker", "--gpus", "0,0"), "--gpus"),
        (("worker", "--gpus", "one"), "--gpus"),
        (("worker", "--gpus", "0,1", "--kernels", "builtin"), "CUDA device 0"),
        (("worker", "--gpus", "all", "--kernels", "builtin"), "no NVIDIA GPU"),
        (("tune", "--device", "replay:recordings", "--gpus", "all"), "--gpus"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(cli: Cli, url: str, arguments: tuple[str, ...], expected: str) -> None:
    where = () if "--storage" in arguments or arguments[0] == "tune" else ("--storage", url)
    assert expected in cli(*arguments, *where).error


def test_a_study_that_cannot_be_measured_here_is_exit_code_1(
    cli: Cli, recordings: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ReplayDevice, *_: object, **__: object) -> None:
        raise DeviceError("the inputs cannot be made")

    monkeypatch.setattr(ReplayDevice, "measure", fail)
    ran = cli("worker", "--storage", url, "--device", f"replay:{recordings}", "--json", "x.json")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.count("the inputs cannot be made") == 3
    studies = json.loads(Path("x.json").read_text())["studies"]
    assert [(study["finished"], study["message"]) for study in studies] == 3 * [(False, "the inputs cannot be made")]
    quiet = cli("tune", "--device", f"replay:{recordings}", "--storage", "memory", "--quiet")
    assert (quiet.code, quiet.out) == (1, "")
    assert quiet.err.count("failed   lora_") == 3
