"""Ends the process when it is asked to: in order, and within seconds whatever is under way.

A signal interrupts the main thread, which stops studies and gives their leases back. That can take long: a database may
be locked, a server may not answer, or a call into C may not return. So the signal also wakes a separate thread. It ends
the process after a few seconds, and first does what others would otherwise have to wait for.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from bo_tune.processes.streams import hurry

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that ask for an end: those of terminals, of service managers, and of batch systems before they kill."""

IN_ORDER_WITHIN_S = 3.0
"""Time for a process that was asked to end to do so in order."""

LAST_WITHIN_S = 1.0
"""Further time for what others would have to wait for."""

AGAIN_AFTER_S = 0.05

_at_last: dict[object, Callable[[], object]] = {}


def at_exit(do: Callable[[], object]) -> Callable[[], object]:
    """Register a function to call if the process has to end out of order. Return a function that unregisters it."""
    key = object()
    _at_last[key] = do
    return lambda: _at_last.pop(key, None)


class _Interrupt:
    """Raises KeyboardInterrupt once.

    Attributes:
        asked_by: number of the signal that asked for it; 0 before.
        unraisable: the hook for exceptions that nothing can handle.
    """

    def __init__(self) -> None:
        self.asked_by = 0
        self.unraisable: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if not self.asked_by:  # otherwise the process is ending, which must not be interrupted
            self.asked_by = number
            hurry.begin()
            raise KeyboardInterrupt

    def was_ignored(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Raise it again if it was raised where Python ignores exceptions, for example while an object is deleted."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and self.asked_by:
            number, self.asked_by = self.asked_by, 0
            threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number)).start()
        else:
            self.unraisable(unraisable)


@contextmanager
def interruptible(code: int | None, *, within_s: float = IN_ORDER_WITHIN_S) -> Iterator[None]:
    """Turn signals that ask for an end into one KeyboardInterrupt inside the context, and end the process soon after.

    Args:
        code: exit code of the process if it has to end out of order. Use None in somebody else's program. Signals that
            the program handles itself are then left alone, Ctrl-C ends only the call, and other signals take their
            usual effect once the call has ended in order.
        within_s: time for an orderly end.
    """
    if threading.current_thread() is not threading.main_thread():  # not the main thread: it handles no signals
        yield
        return
    interrupt = _Interrupt()
    handled = [number for number in ASKING if _is_to_be_handled(number, everywhere=code is not None)]
    codes = {n: 128 + n if code is None else code for n in handled if code is not None or n != signal.SIGINT}
    before = {number: signal.signal(number, interrupt) for number in handled}
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    woken = signal.set_wakeup_fd(writes)
    interrupt.unraisable, sys.unraisablehook = sys.unraisablehook, interrupt.was_ignored
    threading.Thread(target=_end_when_asked, args=(reads, codes, within_s), name="end", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        os.close(writes)
        sys.unraisablehook = interrupt.unraisable
        if code is None or not interrupt.asked_by:  # otherwise nothing may disturb the process's last moments
            for number, handler in before.items():
                signal.signal(number, handler)
        if code is None and interrupt.asked_by:
            hurry.end()
            if interrupt.asked_by != signal.SIGINT:
                signal.raise_signal(interrupt.asked_by)


def _is_to_be_handled(number: int, *, everywhere: bool) -> bool:
    handler = signal.getsignal(number)
    if handler is signal.SIG_IGN:  # nohup asks for this, and so does a shell for background jobs
        return False
    return everywhere or handler in (signal.SIG_DFL, signal.default_int_handler)


def _end_when_asked(reads: int, codes: Mapping[int, int], within_s: float) -> None:
    """Wait for one of these signals, whatever the main thread does, or for the end of the pipe."""
    while (byte := os.read(reads, 1)) and byte[0] not in codes:
        pass
    if not byte:
        os.close(reads)
        return
    hurry.begin()
    time.sleep(within_s)
    _end(codes[byte[0]])


def _end(code: int) -> None:
    doing = [threading.Thread(target=_quietly, args=(do,), daemon=True) for do in list(_at_last.values())]
    for thread in doing:
        thread.start()
    give_up_at = time.monotonic() + LAST_WITHIN_S
    for thread in doing:
        thread.join(max(0.0, give_up_at - time.monotonic()))
    os._exit(code)


def _quietly(do: Callable[[], object]) -> None:
    with suppress(Exception):  # nobody is left to tell
        do()
