"""What starting the program loads: TAB and ``--version`` must answer at once."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {"numpy", "optuna", "rich", "scipy", "sqlalchemy", "torch", "triton"}
CODE = """
import atexit, json, os, sys
atexit.register(lambda: os.write(2, json.dumps(sorted(sys.modules)).encode()))
sys.argv[0] = "bo-tune"
from bo_tune.cli import main
main()
"""


def loaded(*arguments: str, **environment: str) -> set[str]:
    """Run the program and return the modules that it has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
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


@pytest.mark.parametrize("words", ["bo-tune ", "bo-tune tune --", "bo-tune tune --sampler ", "bo-tune show --sto"])
def test_tab_loads_the_command_line_alone(words: str) -> None:
    modules = completing(words)
    assert not modules & HEAVY
    assert len(modules) < 300


def test_help_loads_what_draws_it_and_nothing_that_a_command_needs() -> None:
    modules = loaded("--help")
    assert not modules & (HEAVY - {"rich"})
