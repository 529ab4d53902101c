"""Identifies processes, so that others on the same machine can say whether the writer of something still runs."""

import os
from pathlib import Path

_NAMESPACE = Path("/proc/self/ns/pid")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def this_process() -> str:
    """Name this process uniquely, even if earlier processes had its number; "" if the system does not tell."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """Name a running process of this machine; "" if there is none, or if the system does not tell."""
    started = _started(pid)
    try:
        return " ".join([_BOOT.read_text().strip(), str(_NAMESPACE.readlink()), str(pid), started or ""]).strip()
    except OSError:
        return ""


def is_gone(process: str) -> bool:
    """Say whether a named process has certainly ended. Nothing is certain for another machine or container."""
    boot, _, rest = process.partition(" ")
    namespace, _, rest = rest.partition(" ")
    pid, _, started = rest.partition(" ")
    if not pid.isdecimal() or not started:
        return False
    here = process_name(int(pid)).split(" ")
    return here[:2] == [boot, namespace] and here[3:] != [started]


def _started(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; None if it does not exist or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the process's name comes first and may hold anything
    return None if state in "ZX" else fields[18]
