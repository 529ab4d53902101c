"""How many GPUs this host has, for a process that loads neither torch nor the driver."""

import subprocess

from bo_tune.errors import DeviceError, one_line
from bo_tune.processes.interpreter import python_command

COUNT_MODULE = "bo_tune.measure.gpu_count"

ANSWER_TIMEOUT_S = 120.0
"""The driver may have to wake every GPU up first."""

ASK_WITHOUT_A_CONTEXT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Has torch ask the driver's management library whether there is a GPU: a source that asks on import, as vLLM does,
must leave no CUDA context behind for children to inherit."""


def gpu_count() -> int:
    """Return how many of this host's NVIDIA GPUs can be used. Raises DeviceError where that cannot be told."""
    command = python_command(COUNT_MODULE)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"the GPUs of this host cannot be counted: {one_line(error)}") from error
    return int(answer.stdout)
