"""What the live display costs: sessions of 200 studies in a pseudo-terminal, with it and with ``--quiet``, in turn.

``python benchmarks/console.py --pairs 6`` needs no GPU. Seconds of CPU time are compared too, which other work on the
machine disturbs less than wall time.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from helpers import EXPAND, SHRINK, command, sliced, write_all
from terminal import terminal

STUDIES = 200
FIGURES = ("cpu_s", "session_s")


def session(folder: Path, *options: str) -> tuple[float, float]:
    """Run one session; returns its CPU time and its wall time, in seconds."""
    figures = folder / "figures.json"
    figures.unlink(missing_ok=True)
    where = ("--device", f"replay:{folder / 'recordings'}", "--storage", "memory", "--out", folder / "out")
    words = command("tune", *where, "--budget", 8, "--json", figures, *options)
    with terminal(words, columns=100, rows=30, cwd=folder) as shown:
        while shown.read(1.0):
            pass
        _, status, usage = os.wait4(shown.process.pid, 0)
        shown.process.returncode = os.waitstatus_to_exitcode(status)
    if shown.process.returncode:
        sys.exit(shown.text)
    return usage.ru_utime + usage.ru_stime, json.loads(figures.read_text())["session"]["wall_s"]


def main() -> None:
    """Compare, and print what came of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6)
    pairs = parser.parse_args().pairs
    quiet: list[tuple[float, float]] = []
    live: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recordings").mkdir()
        sizes = range(1, STUDIES // 2 + 1)
        recorded = [sliced(kernel, m=m) for kernel in (SHRINK, EXPAND) for m in sizes]
        write_all(folder / "recordings", *recorded)
        for pair in range(pairs):
            for runs in (quiet, live) if pair % 2 else (live, quiet):
                runs.append(session(folder, *(["--quiet"] if runs is quiet else [])))
    for place, figure in enumerate(FIGURES):
        of = [[run[place] for run in runs] for runs in (live, quiet)]
        ratios = [a / b for a, b in zip(*of, strict=True)]
        print(json.dumps({"figure": figure, "live": of[0], "quiet": of[1], "median_ratio": median(ratios)}))


if __name__ == "__main__":
    main()
