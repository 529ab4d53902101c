"""Which GPUs this host has, for a process that loads neither torch nor the driver."""

import json
import subprocess
from collections.abc import Sequence

from bo_tune.errors import DeviceError, one_line
from bo_tune.measure.backends.base import Backend, GpuIdentity
from bo_tune.processes.interpreter import python_command

ANSWER_TIMEOUT_S = 120.0
"""The driver may have to wake every GPU up first."""


def told_by(module: str) -> list[GpuIdentity]:
    """Return the GPUs that a module's ``main()`` prints: pairs of UUID and bus id, in JSON.

    It runs in a process of its own, since asking a driver leaves a process unfit to fork children that use it. Raises
    DeviceError where it cannot tell.
    """
    command = python_command(module)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError(f"the GPUs of this host cannot be counted: {one_line(error)}") from error
    return [GpuIdentity(*one) for one in json.loads(answer.stdout)]


def known_identities(backend: Backend, *, required: bool) -> Sequence[GpuIdentity]:
    """Return a vendor's GPUs; none where they cannot be told, unless that is required. Raises DeviceError then."""
    try:
        return backend.identities()
    except DeviceError:
        if required:
            raise
        return []
