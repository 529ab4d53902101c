"""What child processes import: what their parent finds, and nothing that lies in the current folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from planted import OTHERS, Planted

from bo_tune.measure.backends.nvidia.backend import Nvidia
from bo_tune.processes.fork_server import ForkServer
from bo_tune.processes.interpreter import drop_current_folder, python_command
from bo_tune.processes.worker import Worker

HERE = Path(__file__).parent
ECHO = "import json, sys\ndef main():\n    json.dump([sys.path, sys.argv[1:], __file__], sys.stdout)\n"


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """The current folder is full of files that are named like modules."""
    folder = tmp_path / "planted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Planted(folder)


def test_the_folder_would_be_imported_from(planted: Planted) -> None:
    subprocess.run([sys.executable, "-c", "import reprlib"], check=True)
    assert planted.ran == ["reprlib"]


def test_children_of_a_fork_server_import_nothing_from_it(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    server = ForkServer(["worker_child"])
    worker = Worker(server, "worker_child", [])
    try:
        assert worker.request(("echo", 1), 60.0) == 1
    finally:
        worker.kill()
        server.close()
    assert planted.ran == []


def test_counting_gpus_imports_nothing_from_it(planted: Planted) -> None:
    Nvidia().identities()
    assert planted.ran == []


def test_a_child_finds_what_its_parent_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "beside the script" / "echoing.py"
    module.parent.mkdir()
    module.write_text(ECHO)
    monkeypatch.syspath_prepend(module.parent)
    command = python_command("echoing", "one", "", "--three")
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told == json.dumps([sys.path, ["one", "", "--three"], str(module)])


def test_python_m_bo_tune_drops_the_folder_before_it_imports_much(tmp_path: Path) -> None:
    # What Python itself loads before a line of the package is run is out of its reach: that takes -P.
    planted = Planted(tmp_path, ("json", "sqlite3", "shlex", *OTHERS))
    command = [sys.executable, "-m", "bo_tune", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bo-tune ")
    assert planted.ran == []


@pytest.mark.parametrize(
    ("first", "package", "dropped"),
    [("/here", "/elsewhere", True), ("", "/elsewhere", True), ("/bin", "/elsewhere", False), ("/here", "/here", False)],
)
def test_the_current_folder_is_dropped_unless_the_package_is_run_from_it(
    first: str, package: str, dropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [first, "/lib"])
    drop_current_folder("/here", package)
    assert sys.path == (["/lib"] if dropped else [first, "/lib"])
