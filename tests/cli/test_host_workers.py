"""``bo-tune tune --workers``: tuning processes of this host, on recordings and on GPUs that are not there."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
from helpers import (
    EXPAND,
    EXPAND_TABLE,
    PATIENCE_S,
    ROOT,
    SHRINK,
    SHRINK_TABLE,
    Cli,
    command,
    run_command,
    sliced,
    sqlite_url,
    stored_trials,
    write_all,
)

from bo_tune.analysis.listing import list_studies
from bo_tune.cli.arguments import Arguments
from bo_tune.cli.tuning import worker_count
from bo_tune.core.activity import DeviceActivity, GpuActivity, SessionActivity, with_workers
from bo_tune.core.choices import MEMORY
from bo_tune.core.conditions import Conditions
from bo_tune.core.outcome import InvalidReason
from bo_tune.core.space import config_key
from bo_tune.formats.study_file import load_study_file
from bo_tune.session.session import SessionSettings
from bo_tune.session.workers import host as host_workers
from bo_tune.session.workers.measuring import Measured
from bo_tune.store.attributes import DONE_ATTR, JOB_ATTR
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import REASON

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
BUDGET, LONG = 6, 30
STUDY = 'name = "two"\n' + "".join(
    f'[[problem]]\nkernel = "{kernel}"\nmax_loras = {max_loras}\nnum_slices = 1\nm = {m}\nk = {k}\nn = {n}\n'
    for kernel, k, n in (("lora_shrink", 4096, 16), ("lora_expand", 16, 4096))
    for max_loras in (1, 4)
    for m in (16, 256)
)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_all(
        tmp_path / "recordings", *(sliced(SHRINK, m=m) for m in (16, 32, 64)), *(sliced(EXPAND, m=m) for m in (1, 2))
    )


def assert_whole(database: Path, studies: int, budget: int) -> None:
    """Every study is done, and has no config twice."""
    store = StudyStore(sqlite_url(database), create=False)
    found = store.summaries()
    trials = store.trials_of(found)
    store.close()
    assert len(found) == studies
    for study in found:
        assert study.attributes[DONE_ATTR] == study.attributes[JOB_ATTR]
        assert len({config_key(t.params) for t in trials[study.name]}) == len(trials[study.name]) >= budget


def test_workers_do_it_all_and_the_session_shows_it(recordings: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    where = ("--device", f"replay:{recordings}", "--storage", sqlite_url(tmp_path / "x.db"), "--out", out)
    search = ("--sampler", "random", "--budget", BUDGET, "--verbose", "--workers", 2, "--json", figures)
    ran = run_command("tune", *where, *search, cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert [f"[{number}/5] tuned" in ran.out for number in range(1, 6)] == [True] * 5
    assert "resumed" not in ran.out
    assert ran.out.count("\nrecorded ") == 5 * BUDGET
    assert_whole(tmp_path / "x.db", 5, BUDGET)
    session = json.loads(figures.read_text())["session"]
    assert (session["studies"], session["studies_done"], session["studies_begun"]) == (5, 5, 5)
    assert session["trials"] == 5 * BUDGET
    assert session["launches"]["check"] >= 5 * BUDGET
    tables = [json.loads((out / name).read_text()) for name in (SHRINK_TABLE, EXPAND_TABLE)]
    assert [len(table["5"][slices]) for table, slices in zip(tables, "12", strict=True)] == [3, 2]
    again = run_command("tune", *where, *search, cwd=tmp_path)
    assert (again.code, again.out.count("\nrecorded ")) == (0, 0)
    assert again.out.count(" kept ") == 5


def tune_on_two_gpus(folder: Path, study: str, *words: object, **variables: str) -> dict[str, Any]:
    """Tune on GPUs that are not there, and return the session's figures."""
    file, figures, url = folder / "study.toml", folder / "figures.json", sqlite_url(folder / "x.db")
    file.write_text(study)
    where = ("--gpus", "0,1", "--jobs", 4, "--kernels", "builtin", "--storage", url, "--out", folder, "--json", figures)
    everything = ["tune", file, *where, "--no-bundled", *words]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = forked.run(
        [sys.executable, HERE / "gpus.py", *map(str, everything)],
        env={**os.environ, **variables, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stderr == ""
    session: dict[str, Any] = json.loads(figures.read_text())["session"]
    return session


def test_each_has_its_gpus_and_its_share_of_the_compilers(tmp_path: Path) -> None:
    session = tune_on_two_gpus(tmp_path, STUDY, "--budget", BUDGET, "--workers", 2)
    assert_whole(tmp_path / "x.db", 8, BUDGET)
    assert session["trials"] == 8 * BUDGET
    assert list(session["devices"]) == ["NVIDIA Fake 9", "NVIDIA Fake 9 #2"]
    for device in session["devices"].values():
        assert device["farm"]["workers"] == 2
        assert device["gpu"]["seconds"]["measure"] > 0
    for name in ("SHRINK", "EXPAND_TRUE"):
        assert json.loads((tmp_path / f"NVIDIA_Fake_9_{name}.json").read_text()).keys() == {"2", "5"}


ONE = STUDY[: STUDY.index("[[problem]]", STUDY.index("[[problem]]") + 1)]


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        ({}, 2),
        ({"workers": 1}, 1),
        ({"workers": 3}, 3),
        ({"storage": MEMORY}, 1),
        ({"choose_m": True}, 1),
        ({"gpus": "0"}, 1),
        ({"gpus": None}, 1),
        ({"packs": ()}, 1),
        ({"settings": SessionSettings(sampler="grid")}, 1),
        ({"study": ONE}, 1),
        ({"study": ONE, "workers": 2}, 2),
    ],
)
def test_there_is_one_for_each_gpu_that_has_a_pack(changed: dict[str, Any], count: int, tmp_path: Path) -> None:
    given = {"study": STUDY, "gpus": "0,1", "packs": (Path("x.pack"),), "storage": "sqlite:///x.db", **changed}
    measured = Measured("cuda", "builtin", Conditions(), None, given.pop("packs"), given.pop("gpus"))
    file = tmp_path / "study.toml"
    file.write_text(given.pop("study"))
    settings = given.pop("settings", SessionSettings())
    arguments = Arguments(load_study_file(file), (), measured, given.pop("storage"), tmp_path, settings, verbose=False)
    assert worker_count(replace(arguments, **given)) == count


@pytest.mark.parametrize("words", [(), ("--storage", MEMORY)], ids=["without a pack", "without a database"])
def test_one_process_has_all_gpus(words: tuple[object, ...], tmp_path: Path) -> None:
    session = tune_on_two_gpus(tmp_path, STUDY, "--budget", BUDGET, *words)
    assert session["trials"] == 8 * BUDGET
    assert [device["farm"]["workers"] for device in session["devices"].values()] == [4, 4]


def test_workers_know_the_compile_deadline_of_the_study(tmp_path: Path) -> None:
    study = STUDY + "[budget]\nlaunched_configs = 1\ncompile_deadline_s = 0.2\n"
    tune_on_two_gpus(tmp_path, study, "--workers", 2, FAKE_COMPILE_S="1")
    trials = [trial for some in stored_trials(tmp_path / "x.db").values() for trial in some]
    assert {trial.user_attrs[REASON] for trial in trials} == {InvalidReason.COMPILE_TIMEOUT}


def test_what_a_killed_worker_had_the_others_do(recordings: Path, tmp_path: Path) -> None:
    database = tmp_path / "x.db"
    where = ("--device", f"replay:{recordings}", "--storage", sqlite_url(database), "--lease", 1)
    search = ("--budget", LONG, "--no-stop", "--workers", 2)
    with started(tmp_path, "tune", *where, *search, "--out", tmp_path / "out") as tuning:
        os.kill(one_at_work(workers_of(tuning, 2, database), database), signal.SIGKILL)
        said, error = tuning.communicate(timeout=PATIENCE_S)
    assert tuning.returncode == 0, (said, error)
    assert "a worker was lost with exit code -9" in said + error
    assert_whole(database, 5, LONG)


def test_an_interruption_ends_them_all_and_keeps_what_was_recorded(recordings: Path, tmp_path: Path) -> None:
    where = ("--device", f"replay:{recordings}", "--storage", sqlite_url(tmp_path / "x.db"), "--workers", 2)
    search = ("--budget", LONG, "--no-stop", "--out", tmp_path / "out")
    with started(tmp_path, "tune", *where, *search) as tuning:
        pids = workers_of(tuning, 2, tmp_path / "x.db")
        os.killpg(tuning.pid, signal.SIGINT)  # as the terminal does
        said, error = tuning.communicate(timeout=PATIENCE_S)
    assert tuning.returncode == 130, (said, error)
    assert "interrupted: " in said + error
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    store = StudyStore(sqlite_url(tmp_path / "x.db"), create=False)
    assert not [study for study in list_studies(store) if study.holder]
    store.close()
    again = run_command("tune", *where, *search, cwd=tmp_path)
    assert again.code == 0
    assert_whole(tmp_path / "x.db", 5, LONG)


def test_workers_whose_session_was_killed_stop(recordings: Path, tmp_path: Path) -> None:
    where = ("--device", f"replay:{recordings}", "--storage", sqlite_url(tmp_path / "x.db"), "--workers", 2)
    with started(tmp_path, "tune", *where, "--budget", LONG, "--no-stop", "--out", tmp_path / "out") as tuning:
        pids = workers_of(tuning, 2, tmp_path / "x.db")
        tuning.kill()
        tuning.communicate(timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started(folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Start a command in a process group of its own."""
    pipe = subprocess.PIPE
    return forked.Popen(command(*arguments), cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def workers_of(tuning: "subprocess.Popen[str]", count: int, database: Path) -> list[int]:
    """Wait until workers have recorded something, and return their process ids."""
    deadline = time.monotonic() + PATIENCE_S
    while not (database.exists() and any(stored_trials(database).values())):
        assert tuning.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{tuning.pid}/task/{tuning.pid}/children").read_text().split()
    module = host_workers.MODULE.encode()
    pids = [int(pid) for pid in children if module in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    assert len(pids) == count
    return pids


def one_at_work(pids: list[int], database: Path) -> int:
    """Return a worker that has a study under way: one that is done with its last one loses nothing."""
    deadline = time.monotonic() + PATIENCE_S
    with StudyStore(sqlite_url(database), create=False) as store:
        while time.monotonic() < deadline:
            at_work = [holder.pid for holder in store.holders().values() if holder.pid in pids]
            if at_work:
                return at_work[-1]
            time.sleep(0.01)
    raise AssertionError("nobody works")


def test_what_cannot_be_done_is_said_in_a_line(cli: Cli, recordings: Path, tmp_path: Path) -> None:
    where = ("--device", f"replay:{recordings}", "--workers", 2)
    assert "--storage" in cli("tune", *where, "--storage", MEMORY).error
    model = ("--model", ROOT / "studies" / "models" / "llama-3.1-8b", "--max-loras", 1, "--rank", 8)
    assert "--m auto" in cli("tune", *where, "--m", "auto", *model).error
    url = sqlite_url(tmp_path / "x.db")
    study = ROOT / "studies" / "demo-gpu.toml"
    assert (
        "expected at most one worker for each of this host's 1 GPUs, got 2"
        in cli("tune", study, "--workers", 2, "--device", "cuda:0", "--storage", url).error
    )
    assert not (tmp_path / "x.db").exists()


def activity(**figures: Any) -> SessionActivity:
    counts = {"wall_s": 1.0, "studies": 2, "studies_done": 1, "studies_begun": 1, "trials": 3}
    seconds = {"tuner_s": 0.5, "store_s": 0.25, "cpu_s": 0.5}
    return SessionActivity(**{"launches": {"check": 3}, "devices": {}, **counts, **seconds, **figures})


def test_figures_of_workers_are_added_up() -> None:
    session = activity(trials=0, launches={}, studies_begun=0, cpu_s=0.1, wall_s=9.0)
    gpu = DeviceActivity(gpu=GpuActivity(held_up_s=1.0))
    two = [activity(devices={"G": DeviceActivity(gpu=GpuActivity(held_up_s=0.5))}), activity(devices={"G": gpu})]
    whole = with_workers(session, [two, [], [activity(devices={"G": gpu})]])
    assert (whole.wall_s, whole.studies, whole.studies_begun) == (9.0, 2, 3)
    assert (whole.trials, whole.launches) == (9, {"check": 9})
    assert whole.cpu_s == 1.0, "of the worker that took most"
    assert whole.devices == {"G": gpu, "G #2": gpu}
    assert with_workers(session, []) == session
