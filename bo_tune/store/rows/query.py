"""SQL statements that read, and the two ways in which they reach a database.

One is ``sqlite3.Connection.execute``, the other SQLAlchemy's connection (``through``). Readers know neither, so looking
at a file need not load SQLAlchemy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from sqlalchemy import Connection

Query = Callable[[str, Sequence[Any]], Iterable[Any]]
"""Runs a statement with a value for each ``?`` in it, and returns tuples. A statement contains no ``%``."""

IN_ONE_QUERY = 500
"""Values of one IN list. Every database takes this many."""

Value = TypeVar("Value")


def through(connection: "Connection") -> Query:
    """Return a function that runs statements in a connection's transaction."""
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"

    def query(statement: str, values: Sequence[Any]) -> Iterable[Any]:
        return connection.exec_driver_sql(statement.replace("?", mark), tuple(values) or None)

    return query


def marks(values: Sequence[object]) -> str:
    """Return the list after an IN, with a mark for each value."""
    return f"({', '.join('?' * len(values))})"


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """Split values into lists that every database takes in one IN."""
    for start in range(0, len(values), IN_ONE_QUERY):
        yield values[start : start + IN_ONE_QUERY]
