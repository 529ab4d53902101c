"""Ending when asked to: real processes, real signals."""

import signal
import subprocess
import sys
import time
from textwrap import indent

import pytest
from helpers import PATIENCE_S

from bo_tune.processes.interruption import ASKING, LAST_WITHIN_S

pytestmark = pytest.mark.slow

WITHIN_S = 1.0
IN_ORDER = """
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("in order", flush=True)
    time.sleep(0.5)
print("over", flush=True)
"""
IN_C = 'hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)'
"""Python hears of no signal before it is done."""

SCRIPT = """
import hashlib, signal, time
from bo_tune.processes.interruption import at_exit, interruptible
{first}
with interruptible({code}, within_s={within_s}):
    print("ready", flush=True)
{body}
print("after", flush=True)
"""


def asked(number: int, body: str, *, code: int | None = 130, first: str = "", times: int = 1) -> tuple[int, str]:
    """Run this, send it a signal, and return its exit code and what it printed after that."""
    script = SCRIPT.format(first=first, code=code, within_s=WITHIN_S, body=indent(body, "    "))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.02)
        said = process.stdout.read()
        return process.wait(PATIENCE_S), said


@pytest.mark.parametrize("number", ASKING, ids=lambda number: number.name)
def test_whoever_is_asked_ends_in_order(number: signal.Signals) -> None:
    assert asked(number, IN_ORDER) == (0, "in order\nover\nafter\n")


def test_asking_again_does_not_disturb_the_end() -> None:
    assert asked(signal.SIGTERM, IN_ORDER, times=3) == (0, "in order\nover\nafter\n")


def test_what_is_raised_where_python_ignores_it_is_raised_again() -> None:
    body = "class Last:\n    def __del__(self):\n        time.sleep(600)\nthing = Last()\ndel thing\n"
    assert asked(signal.SIGTERM, f"{body}{IN_ORDER}") == (0, "in order\nover\nafter\n")


def test_what_does_not_end_in_order_is_ended_and_does_the_last_things_first() -> None:
    last = 'at_exit(lambda: 1 / 0)\nat_exit(lambda: print("last", flush=True))\nat_exit(lambda: print("not"))()'
    assert asked(signal.SIGTERM, IN_C, first=last) == (130, "last\n")


def test_the_last_things_have_a_limit_too() -> None:
    began = time.monotonic()
    assert asked(signal.SIGTERM, IN_C, first="at_exit(lambda: time.sleep(600))")[0] == 130
    assert time.monotonic() - began < LAST_WITHIN_S + 4.0


def test_what_is_ignored_stays_ignored() -> None:
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert asked(signal.SIGHUP, "time.sleep(0.5)", first=ignored) == (0, "after\n")


def test_in_a_program_of_others_a_signal_does_what_it_does_there_once_all_has_ended() -> None:
    assert asked(signal.SIGTERM, IN_ORDER, code=None) == (-signal.SIGTERM, "in order\nover\n")
    assert asked(signal.SIGTERM, IN_C, code=None) == (128 + signal.SIGTERM, "")


def test_in_a_program_of_others_ctrl_c_ends_the_call_alone() -> None:
    assert asked(signal.SIGINT, f"{IN_ORDER}\ntime.sleep(1)", code=None) == (0, "in order\nover\nafter\n")


def test_signals_that_a_program_handles_itself_are_left_to_it() -> None:
    own = 'signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))'
    assert asked(signal.SIGTERM, "time.sleep(1)", code=None, first=own) == (0, "mine\nafter\n")
