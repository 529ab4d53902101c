"""Runs ``interpreted_checks.py`` under Triton's interpreter, on any machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PASSED = 0


@pytest.mark.parametrize("kernel", ["shrink", "expand"])
def test_kernel_is_right_under_the_interpreter(kernel):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [str(HERE / "interpreted_checks.py"), "-k", kernel]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    result = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == PASSED, result.stdout[-6000:] + result.stderr[-2000:]
