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


def run_interpreted(checks: str, which: str, *more_path: Path) -> None:
    """Run a file of checks in a process of its own: Triton decides on its interpreter when a kernel is defined."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += [str(HERE / checks), "-k", which]
    path = os.pathsep.join([*map(str, more_path), str(HERE), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    result = subprocess.run(
        command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == PASSED, result.stdout[-6000:] + result.stderr[-2000:]


def test_kernels_are_right_under_the_interpreter():
    run_interpreted("interpreted_checks.py", "test")


@pytest.mark.parametrize("kernels", ["test_shrink or test_expand", "test_moe or test_one_launch"])
def test_vllm_kernels_are_right_under_the_interpreter(kernels):
    run_interpreted("interpreted_vllm_checks.py", kernels, vllm_folder())


def test_moe_kernels_are_right_under_the_interpreter():
    run_interpreted("interpreted_moe_checks.py", "test")


def test_vllm_kernel_of_the_base_models_experts_is_right_under_the_interpreter():
    run_interpreted("interpreted_experts_checks.py", "test", vllm_folder())


def test_vllm_kernel_of_mambas_decode_step_is_right_under_the_interpreter():
    run_interpreted("interpreted_mamba_checks.py", "test", vllm_folder())


def test_sglang_kernels_are_right_under_the_interpreter():
    run_interpreted("interpreted_csgmv_checks.py", "test", sglang_folder())


def test_layers_are_right_under_the_interpreter():
    run_interpreted("interpreted_layer_checks.py", "test")
