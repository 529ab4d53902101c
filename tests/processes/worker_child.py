"""A child process for ``test_worker``: does what the parent says, badly where asked to."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from bo_tune.processes.worker import serve

ARGUMENTS: list[str] = []
"""Those it was started with."""


FORKED_FROM: list[int] = []
"""The processes in which ``before_forking`` was called."""


def handle(message: tuple[str, Any]) -> object:
    """Answer one request."""
    kind, value = message
    match kind:
        case "echo":
            return value
        case "pid":
            return os.getpid(), os.getpgid(0)
        case "time":
            return time.monotonic()
        case "sleep":
            time.sleep(value)
        case "raise":
            raise ValueError(value)
        case "exit":
            os._exit(value)
        case "signal":
            os.kill(os.getpid(), getattr(signal, value))
        case "forked from":
            return FORKED_FROM, os.getppid()
        case "variable":
            return os.environ.get(value)
        case "arguments":
            return ARGUMENTS
        case "grandchild":
            child = subprocess.Popen(["sleep", "600"])
            Path(value).write_text(str(child.pid))
            time.sleep(600)
    return None


def before_forking() -> None:
    """Be called once, by the server."""
    FORKED_FROM.append(os.getpid())


def main(arguments: list[str], fd: int) -> None:
    """Serve the parent."""
    ARGUMENTS.extend(arguments)
    serve(fd, handle)
