"""What importing the store does to the process."""

import subprocess
import sys

CLOSING = """
import bo_tune.store.storage
from sqlalchemy import create_engine

engine = create_engine("sqlite://")

def interrupted(connection):
    raise KeyboardInterrupt

engine.dialect.do_close = interrupted
engine.connect().invalidate()
"""


def test_an_interruption_while_a_connection_is_closed_is_not_logged_to_stderr() -> None:
    ran = subprocess.run([sys.executable, "-c", CLOSING], capture_output=True, text=True, timeout=60, check=False)
    assert "KeyboardInterrupt" in ran.stderr, "it is raised all the same"
    assert "Exception closing connection" not in ran.stderr
    assert "Exception terminating connection" not in ran.stderr
