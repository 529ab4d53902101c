"""The settings of a kernel under ``bo_tune.autotune``, and the environment variables that replace them."""

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
"""Default folder for recorded calls, below the current one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a launch does if no winner is known.

    Attributes:
        table: the JSON file with the winners; None for the one beside the module.
        storage: URL of the database that keeps the measurements of ``tune``.
        calls: the folder into which ``record`` writes.
        timing: the state of the L2 cache for a measured launch.
        keeps: whether winners go into Triton's cache if no table was named.
    """

    on_miss: OnMiss = "tune"
    table: Path | None = None
    storage: str | None = None
    calls: Path | None = None
    timing: str = "cold"
    keeps: bool = False

    def in_environment(self, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Return these settings, with the values that the environment replaces.

        Raises:
            InputError: the environment has an unknown word for ``on_miss``.
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
    """Return a valid ``on_miss``. Raises InputError for an unknown word."""
    for known in get_args(OnMiss):
        if on_miss == known:
            word: OnMiss = known
            return word
    raise InputError(f"{place}: expected one of {', '.join(get_args(OnMiss))}, got {on_miss!r}")
