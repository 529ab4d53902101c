"""What starting the program loads: TAB and ``--version`` must answer at once."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from helpers import H100, ROOT, sqlite_url

from bo_tune.core.outcome import Measurement
from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import StudyName
from bo_tune.store.frozen import to_trial
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

HEAVY = {"numpy", "optuna", "rich", "scipy", "sqlalchemy", "torch", "triton"}
RUN = """
import sys
sys.argv[0] = "bo-tune"
from bo_tune.cli import main
main()
"""
TELL = "import atexit, json, os, sys\natexit.register(lambda: os.write(2, json.dumps(sorted(sys.modules)).encode()))"


def loaded(*arguments: str, **environment: str) -> set[str]:
    """Run the program and return the modules that it has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", TELL + RUN, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout
    return set(json.loads(done.stderr))


def completing(words: str) -> set[str]:
    typed = words.split(" ")
    return loaded(_BO_TUNE_COMPLETE="complete_bash", COMP_WORDS="\n".join(typed), COMP_CWORD=str(len(typed) - 1))


def test_the_version_needs_no_package_but_this_one() -> None:
    modules = loaded("--version")
    assert len(modules) < 160
    assert not modules & {*HEAVY, "typer", "pydantic"}


@pytest.mark.parametrize(
    "words", ["bo-tune ", "bo-tune --", "bo-tune tune --", "bo-tune grid x --sampler ", "bo-tune show --sto"]
)
def test_tab_loads_the_command_line_alone(words: str) -> None:
    modules = completing(words)
    assert not modules & {*HEAVY, "pydantic"}
    assert len(modules) < 215


def test_help_loads_what_draws_it_and_nothing_that_a_command_needs() -> None:
    modules = loaded("--help")
    assert not modules & (HEAVY - {"rich"})


@pytest.mark.parametrize("words", [(), ("lora_shrink",), ("--json", "-")], ids=" ".join)
def test_looking_at_a_file_loads_nothing_that_writes_to_one(words: tuple[str, ...], tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    name = StudyName(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), H100.name, "x")
    config = {"block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1}
    now = datetime(2026, 1, 2, 3, 4, 5)
    with StudyStore(url) as store:
        store.open(name, H100).add(to_trial(config, Measurement((5.0,)), start=now, end=now))
    modules = loaded("show", *words, "--storage", url)
    assert not modules & ({*HEAVY, "alembic", "filelock"} - {"rich"})


def test_without_torch_recordings_are_replayed_and_a_gpu_is_not_asked_for(tmp_path: Path) -> None:
    """As where the ``gpu`` extra is not installed: both packages are hidden from the program."""
    hide = "import sys, importlib.util as u; sys.modules.update(torch=None, triton=None); find = u.find_spec\n"
    hide += "u.find_spec = lambda name, *more: None if name in ('torch', 'triton') else find(name, *more)\n"
    grids = ["--device", f"replay:{ROOT / 'studies' / 'recordings'}", "--kernel", "lora_shrink", "--budget", "4"]
    for options, code, said in (
        ([*grids, "--storage", "memory"], 0, "wrote "),
        ([str(ROOT / "studies" / "demo-gpu.toml")], 2, "needs torch and triton: pip install 'bo_tune[gpu]'"),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", hide + RUN, "tune", *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        assert said in ran.stdout + ran.stderr
