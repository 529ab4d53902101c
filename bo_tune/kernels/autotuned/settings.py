"""What is said of a kernel under ``bo_tune.autotune``, and what the environment says instead."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bo_tune.errors import InputError

OnMiss = Literal["default", "nearest", "tune", "record", "error"]
"""What to do at a launch for which no winner is known."""

ON_MISS_VARIABLE = "BO_TUNE_ON_MISS"
TABLE_VARIABLE = "BO_TUNE_TABLE"
STORAGE_VARIABLE = "BO_TUNE_STORAGE"
CALLS_VARIABLE = "BO_TUNE_CALLS"

CALLS_FOLDER = "bo_tune-calls"
"""Where calls are recorded that nobody gave another folder for, below the current one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a launch does for which no winner is known.

    Attributes:
        table: the JSON file with the winners; None for the one beside the module.
        storage: URL of the database that keeps what ``tune`` measures.
        calls: the folder into which ``record`` writes.
        timing: what a measured launch finds in the L2 cache.
        keeps: whether winners go into Triton's cache where no table was named.
    """

    on_miss: OnMiss = "tune"
    table: Path | None = None
    storage: str | None = None
    calls: Path | None = None
    timing: str = "cold"
    keeps: bool = False

    def in_environment(self, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Return these settings, with what the environment says instead.

        Raises:
            InputError: it says what to do in a word that is unknown.
        """
        on_miss = checked(environment.get(ON_MISS_VARIABLE) or self.on_miss, ON_MISS_VARIABLE)
        table, calls = environment.get(TABLE_VARIABLE), environment.get(CALLS_VARIABLE)
        return Settings(
            on_miss,
            Path(table) if table else self.table,
            environment.get(STORAGE_VARIABLE) or self.storage,
            Path(calls) if calls else self.calls or Path(CALLS_FOLDER),
            self.timing,
            self.keeps,
        )


def checked(on_miss: str, place: str = "on_miss") -> OnMiss:
    """Return a word for what to do. Raises InputError for another."""
    for known in get_args(OnMiss):
        if on_miss == known:
            word: OnMiss = known
            return word
    raise InputError(f"{place}: expected one of {', '.join(get_args(OnMiss))}, got {on_miss!r}")
