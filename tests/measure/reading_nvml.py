"""Prints what NVML says of a GPU, for ``test_nvml``; the second time, who worked since the first."""

import json
import sys
from dataclasses import asdict

from bo_tune.measure.backends.base import GpuIdentity
from bo_tune.measure.backends.nvidia.nvml import NvmlWatch
from bo_tune.measure.watch.neighbours import WatchError


def main() -> None:
    """Print it, or the message of what went wrong."""
    try:
        watch = NvmlWatch(GpuIdentity(*sys.argv[1:]))
        first, then = watch.read(), watch.read()
    except WatchError as error:
        json.dump(str(error), sys.stdout)
        return
    watch.close()
    read = {"is_slice": watch.is_slice, "first": asdict(first), "then": then.working_percent}
    json.dump(read, sys.stdout, default=sorted)
