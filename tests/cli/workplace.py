"""A folder in which the examples of ``--help`` work, without a GPU: small recordings under the names they use."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from helpers import EXPAND, H100, ROOT, SHRINK, Cli, sliced, write_all
from observed_engine import expand, shrink, written

RECORDINGS = "studies/recordings"
TUNE = ("tune", "--device", f"replay:{RECORDINGS}")
GRID = ("grid", "--device", f"replay:{RECORDINGS}", "--storage", "memory")


def furnish(folder: Path, cli: Cli) -> Path:
    """Make the folder and go there: study files, a model, recordings; tuned and grid JSON, a database, exports, what
    an engine looked up.

    The fixture ``cli`` must be in the folder already. What is tuned is tuned once in a process, then copied.
    """
    made = Path(_kept().name) / "made"
    if not made.exists():
        shutil.copytree(_furnish(folder, cli), made)
    else:
        shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


@cache
def _kept() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="bo-tune-workplace-")


def _furnish(folder: Path, cli: Cli) -> Path:
    (folder / RECORDINGS).mkdir(parents=True)
    write_all(folder / RECORDINGS, sliced(SHRINK), sliced(EXPAND))
    shutil.copy(ROOT / "studies" / "llama-3.1-8b.toml", folder / "studies")
    shutil.copytree(ROOT / "studies" / "models", folder / "studies" / "models")
    shutil.copytree(ROOT / "studies" / "models" / "llama-3.1-8b", folder / "Llama-3.1-8B")
    for arguments in ((*TUNE, "--budget", 8), GRID, ("export", "--out", "exported")):
        ran = cli(*arguments)
        assert (ran.code, ran.err) == (0, ""), ran
    written(folder / "lookups.jsonl", shrink(16), expand(16, 4096), gpu=H100.name)
    for host in ("host1", "host2"):
        shutil.copytree(folder / "tuned", folder / host / "tuned")
    return folder
