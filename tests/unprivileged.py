"""Commands run by someone whom permissions stop, also where the tests are root's: in a fork without capabilities."""

import ctypes
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers import Ran

from bo_tune.cli import main

DEADLINE_S = 30
"""Of one command, on a loaded machine; what waits for a FIFO waits without an end."""

_CAPABILITIES = 64
_DROP, _SECUREBITS, _NO_ROOT = 24, 28, 1
_VERSION_3 = 0x20080522


def run_each(commands: Mapping[str, Sequence[object]], folder: Path) -> dict[str, Ran]:
    """Run commands in a folder, one after the other; returns what came of those that ended in time."""
    results, streams = folder.parent / "results", folder.parent / "streams"
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)
            if os.geteuid() == 0:
                _become_like_others()
            with results.open("w") as told:
                for name, arguments in commands.items():
                    signal.alarm(DEADLINE_S)
                    told.write(json.dumps([name, *_run([*map(str, arguments)], streams)]) + "\n")
                    told.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    ended = [json.loads(line) for line in results.read_text().splitlines()]
    return {name: Ran(code, out, err) for name, code, out, err in ended}


def _run(arguments: list[str], streams: Path) -> tuple[int, str, str]:
    out, err = streams.with_suffix(".out"), streams.with_suffix(".err")
    with out.open("w") as sys.stdout, err.open("w") as sys.stderr:
        sys.argv = ["bo-tune", *arguments]
        code = -1
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - to be told where the test is
            traceback.print_exc()
    return code, out.read_text(), err.read_text()


def _become_like_others() -> None:
    """Give up root's capabilities, for children, too. Files of root's own stay open to it, as to any owner."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAPABILITIES):
        libc.prctl(_DROP, capability, 0, 0, 0)
    libc.prctl(_SECUREBITS, _NO_ROOT, 0, 0, 0)
    assert libc.capset(struct.pack("Ii", _VERSION_3, 0), bytes(24)) == 0
