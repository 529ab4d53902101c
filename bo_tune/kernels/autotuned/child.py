"""Tunes one call in a separate process, which shares no thread, database or signal handler with this one."""

import json
import subprocess
import tempfile
from pathlib import Path

from bo_tune.errors import InputError
from bo_tune.kernels.autotuned.calls import SUFFIX, RecordedCall
from bo_tune.kernels.autotuned.settings import Settings
from bo_tune.kernels.user import frozen
from bo_tune.processes.interpreter import python_command

MODULE = "bo_tune.recorded"
"""The module that the child runs."""


def tune_in_child(
    call: RecordedCall, kernel: str, settings: Settings, table: Path | None, gpu_index: int
) -> frozen.Entry | None:
    """Tune a call, and return its new entry in the table.

    If several processes with a common table miss the same key, one tunes and the others wait for it.

    Args:
        kernel: its name in the table.
        table: the file that keeps the winner; None for a temporary one.

    Raises:
        InputError: the call could not be tuned. The message is the child's last line.
    """
    with tempfile.TemporaryDirectory(prefix="bo_tune-") as folder:
        if table is None:
            return _tuned(call, kernel, settings, Path(folder) / f"winners{frozen.SUFFIX}", gpu_index, Path(folder))
        with frozen.written_by_one(table, ".tuning"):
            frozen.forget()
            known = frozen.entries_of(kernel, call.gpu, table) if table.is_file() else []
            found = frozen.exact(known, call.sizes)
            return found or _tuned(call, kernel, settings, table, gpu_index, Path(folder))


def _tuned(
    call: RecordedCall, kernel: str, settings: Settings, table: Path, gpu_index: int, folder: Path
) -> frozen.Entry | None:
    calls = folder / f"one{SUFFIX}"
    calls.write_text(json.dumps(call.model_dump()) + "\n")
    request = {
        "calls": str(calls),
        "table": str(table),
        "storage": settings.storage,
        "timing": settings.timing,
        "device": f"cuda:{gpu_index}",
    }
    command = python_command(MODULE, json.dumps(request))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
    except OSError as error:
        raise InputError(f"cannot start a process to tune in: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the tuning process exited with {done.returncode}"]
        raise InputError(said[-1].removeprefix("bo_tune: "))
    frozen.forget()
    return frozen.exact(frozen.entries_of(kernel, call.gpu, table), call.sizes)
