"""Runs the checks under Triton's interpreter, on any machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sglang_wheel import sglang_folder
from vllm_wheel import vllm_folder

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PASSED = 0


def run_interpreted(*checks: str, more_path: tuple[Path, ...] = ()) -> None:
    """Run files of checks in a process of their own: Triton decides on its interpreter when a kernel is defined."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [str(HERE / file) for file in checks]
    path = os.pathsep.join([*map(str, more_path), str(HERE), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    result = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == PASSED, result.stdout[-6000:] + result.stderr[-2000:]


def test_kernels_are_right_under_the_interpreter():
    run_interpreted("interpreted_checks.py", "interpreted_moe_checks.py")


def test_layers_are_right_under_the_interpreter():
    run_interpreted("interpreted_layer_checks.py")


def test_vllm_kernels_of_adapters_are_right_under_the_interpreter():
    run_interpreted("interpreted_vllm_checks.py", more_path=(vllm_folder(),))


def test_vllm_kernels_of_the_base_model_are_right_under_the_interpreter():
    run_interpreted("interpreted_experts_checks.py", "interpreted_mamba_checks.py", more_path=(vllm_folder(),))


def test_sglang_kernels_are_right_under_the_interpreter():
    run_interpreted("interpreted_csgmv_checks.py", more_path=(sglang_folder(),))
