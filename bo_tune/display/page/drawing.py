"""Has a child process draw charts, so that a report outlives a renderer that dies."""

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bo_tune.processes.interpreter import python_command

MODULE = "bo_tune.display.page.vega"

DRAWN_WITHIN_S = 300.0
"""Normally, drawing takes a second or two."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Charts as SVG, and the JavaScript that draws others in a browser."""

    svgs: Sequence[str]
    bundle: str


class DrawingError(Exception):
    """The renderer died. The message says how, in a few words."""


def draw(specs: Sequence[dict[str, Any]]) -> Drawn:
    """Draw charts. Raises DrawingError."""
    try:
        child = subprocess.run(
            python_command(MODULE), input=json.dumps(specs).encode(), capture_output=True, timeout=DRAWN_WITHIN_S
        )
        if child.returncode == 0:
            return Drawn(**json.loads(child.stdout))
    except (OSError, MemoryError, ValueError) as error:
        raise DrawingError(type(error).__name__) from error
    except subprocess.TimeoutExpired as error:
        raise DrawingError(f"took longer than {DRAWN_WITHIN_S:.0f} s") from error
    died = f"by {signal.Signals(-child.returncode).name}" if child.returncode < 0 else f"with code {child.returncode}"
    raise DrawingError(f"died {died}")
