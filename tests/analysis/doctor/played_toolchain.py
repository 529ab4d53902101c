"""Stands for a process with torch, Triton and a GPU, for ``test_examine``: says what ``PLAYED`` holds, line by line.

A line ``…`` has it hang, ``go`` has it wait to be told so.
"""

import os
import sys
import time


def main() -> None:
    """Say it."""
    for line in os.environ["PLAYED"].splitlines():
        if line == "go":
            if sys.stdin.readline() != "go\n":
                return
            continue
        if line == "…":
            time.sleep(600)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
