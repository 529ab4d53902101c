"""Databases in which something stands that this package cannot have stored."""

import sqlite3
from contextlib import closing
from pathlib import Path


def damage(file: Path, statement: str) -> str:
    """Damage the study of shrink at m 16, and return the name that it had.

    Args:
        statement: in SQL; ``{study}`` and ``{trial}`` are conditions for the study and its first trial.
    """
    with closing(sqlite3.connect(file)) as connection:
        number, name = connection.execute(
            "SELECT study_id, study_name FROM studies WHERE study_name LIKE '%m16.k4096%'"
        ).fetchone()
        trial = f"trial_id = (SELECT MIN(trial_id) FROM trials WHERE study_id = {number})"
        changed = connection.execute(statement.format(trial=trial, study=f"study_id = {number}"))
        assert changed.rowcount >= 1
        connection.commit()
    return str(name)
