"""Which GPUs this host has, for a process that loads neither torch nor the driver."""

import json
import subprocess
from dataclasses import dataclass

from bo_tune.errors import DeviceError, one_line
from bo_tune.processes.interpreter import python_command

COUNT_MODULE = "bo_tune.measure.watch.gpu_count"

ANSWER_TIMEOUT_S = 120.0
"""The driver may have to wake every GPU up first."""

ASK_WITHOUT_A_CONTEXT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Has torch ask the driver's management library whether there is a GPU: a source that asks on import, as vLLM does,
must leave no CUDA context behind for children to inherit."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """Which GPU one is, whatever number it has here. Either is "" where the driver does not tell.

    Attributes:
        uuid: without a prefix; of a MIG instance the instance's.
        bus_id: where it is plugged in.
    """

    uuid: str
    bus_id: str


def gpu_identities() -> list[GpuIdentity]:
    """Return this host's NVIDIA GPUs that can be used, as CUDA counts them. Raises DeviceError where that cannot be
    told."""
    command = python_command(COUNT_MODULE)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"the GPUs of this host cannot be counted: {one_line(error)}") from error
    return [GpuIdentity(*one) for one in json.loads(answer.stdout)]


def known_identities(*, required: bool) -> list[GpuIdentity]:
    """Return the same; none where that cannot be told, unless it is required. Raises DeviceError then."""
    try:
        return gpu_identities()
    except DeviceError:
        if required:
            raise
        return []


def gpu_count() -> int:
    """Return how many of this host's NVIDIA GPUs can be used. Raises DeviceError where that cannot be told."""
    return len(gpu_identities())
