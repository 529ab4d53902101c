"""No damaged input is a traceback, a hang, a file outside its place or a GB of memory.

A longer profile, of other inputs each time: ``BO_TUNE_FUZZ=5000 python -m pytest -s tests/fuzz``. It prints what came
of each kind of input; where something is wrong, it names the command and keeps the input.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow

INPUTS = 300
SECONDS_EACH = 2.0
"""Far more than one takes, on a loaded machine."""

SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "MALLOC_ARENA_MAX": "1",
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
}


def test_damaged_inputs_end_in_order(tmp_path: Path) -> None:
    inputs = int(os.environ.get("BO_TUNE_FUZZ", INPUTS))
    command = [sys.executable, str(Path(__file__).with_name("fuzz_batch.py")), str(tmp_path), str(inputs)]
    done = subprocess.run(
        command, env={**os.environ, **SETTINGS}, capture_output=True, text=True, timeout=60 + inputs * SECONDS_EACH
    )
    assert done.returncode == 0, (done.stderr[-4000:], (tmp_path / "now").read_text())
    result = json.loads((tmp_path / "result.json").read_text())
    for kind, ended in sorted(result["counts"].items()):
        print(f"{kind}: {ended}")  # noqa: T201 - what the longer profile is run for
    assert not result["faults"], "\n".join(result["faults"])
    assert sum(sum(ended.values()) for ended in result["counts"].values()) >= inputs
