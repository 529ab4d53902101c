"""``bo-tune tune`` once more, on GPUs that are not there: what is done starts nothing, unless the host has changed."""

import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
from helpers import PATIENCE_S, sqlite_url

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STUDY = """
name = "two"
[[problem]]
kernel = "lora_shrink"
max_loras = 4
num_slices = 1
m = [16, 256]
k = 4096
n = 16
"""
MOST_CPU_S = 2.5
"""Of a run that starts nothing, on a slow machine; a fork server alone takes longer."""


def tune(folder: Path, *words: object, **variables: str) -> tuple[dict[str, Any], float]:
    """Tune, and return what the figures say and the seconds of CPU it took, those of all children included."""
    (folder / "study.toml").write_text(STUDY)
    where = ["--jobs", 2, "--kernels", "builtin", "--storage", sqlite_url(folder / "x.db"), "--out", "out"]
    everything = ["tune", "study.toml", *where, "--no-bundled", "--json", "x.json", *words]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = forked.run(
        [sys.executable, HERE / "gpus.py", *map(str, everything)],
        env={**os.environ, "PYTHONPATH": path, "FAKE_DRIVER": "1", **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, ""), done
    figures: dict[str, Any] = json.loads((folder / "x.json").read_text())
    return figures, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def tuned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything has been tuned."""
    folder = tmp_path_factory.mktemp("once")
    tune(folder, "--budget", 3)
    return folder


def started(figures: dict[str, Any]) -> bool:
    """Whether a GPU was opened."""
    return bool(figures["session"]["devices"])


def test_what_is_done_starts_nothing_and_comes_to_the_same(tmp_path: Path) -> None:
    first, _ = tune(tmp_path, "--budget", 3)
    assert started(first)
    written = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    again, cpu_s = tune(tmp_path, "--budget", 3)
    assert not started(again)
    assert cpu_s < MOST_CPU_S
    assert again["session"]["trials"] == 0
    assert [one["config"] for one in again["studies"]] == [one["config"] for one in first["studies"]]
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == written


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("--budget", 3), {"FAKE_DRIVER": "2"}),
        (("--budget", 3), {"TRITON_PTXAS_PATH": "/usr/bin/true"}),
        (("--budget", 3, "--device", "cuda:1"), {}),
        (("--budget", 4), {}),
        (("--budget", 3, "--fresh"), {}),
    ],
    ids=["driver", "assembler", "gpu", "budget", "fresh"],
)
def test_another_host_or_another_search_is_asked_of_the_gpu(
    tuned_once: Path, tmp_path: Path, words: tuple[object, ...], variables: dict[str, str]
) -> None:
    shutil.copytree(tuned_once, tmp_path, dirs_exist_ok=True)
    changed, _ = tune(tmp_path, *words, **variables)
    assert started(changed)
    again, _ = tune(tmp_path, "--budget", 3) if words == ("--budget", 4) else tune(tmp_path, *words, **variables)
    assert started(again) == ("--fresh" in words or words == ("--budget", 4))


def test_without_a_driver_that_names_itself_the_gpu_is_asked(tmp_path: Path) -> None:
    for _ in range(2):
        figures, _ = tune(tmp_path, "--budget", 3, FAKE_DRIVER="")
        assert started(figures)
