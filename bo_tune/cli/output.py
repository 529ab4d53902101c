"""Where a command prints: tables and lines for people, one JSON document for programs."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from bo_tune.cli.version import program_version
from bo_tune.core.choices import ProgressChoice
from bo_tune.display.console import print_line, terminal
from bo_tune.errors import InputError, printable
from bo_tune.files import check_file_writable, os_error_text, write_atomically

STDOUT = Path("-")
"""Value of ``--json`` for standard output."""


class Output:
    """Prints what a command has to say.

    Results (tables and the lines below them) go to stdout, progress and notes too. With ``--json -`` stdout is the
    document's alone: progress and notes go to stderr, and results, which the document holds, are not printed. A quiet
    command prints nothing but what went wrong, to stderr. With ``--progress json`` stdout is the events' alone: neither
    notes nor results are printed.

    Args:
        command: the command's name.
        json_file: the file of ``--json``, or ``STDOUT``; None without one.
        quiet: see above.
        progress: how a session is shown.

    Attributes:
        lines_of_json: whether a session is shown as such.
        console: for progress and notes.
        urgent: for what must be said.

    Raises:
        InputError: that file could not be written, or stdout is wanted for two things.
    """

    def __init__(
        self,
        command: str,
        json_file: Path | None = None,
        *,
        quiet: bool = False,
        progress: ProgressChoice = ProgressChoice.AUTO,
    ) -> None:
        self.command, self._json_file = command, json_file
        on_stdout, self.lines_of_json = json_file == STDOUT, progress is ProgressChoice.JSON
        if on_stdout and self.lines_of_json:
            raise InputError("--json: --progress json already uses stdout; name a file instead")
        self.console = terminal(stderr=on_stdout, quiet=quiet or self.lines_of_json)
        self.urgent = terminal(stderr=True) if quiet or self.lines_of_json else self.console
        self._results = terminal(quiet=quiet or on_stdout or self.lines_of_json)
        self._warnings = terminal(stderr=True, quiet=quiet)
        if json_file is not None and not on_stdout:
            writing(json_file, lambda: check_file_writable(json_file))

    def tables(self, *tables: RenderableType) -> None:
        """Print tables of results."""
        for table in tables:
            self._results.print(table, crop=False)

    def lines(self, *lines: str) -> None:
        """Print lines of results, as they are."""
        for line in lines:
            print_line(self._results, line)

    def notes(self, *lines: str) -> None:
        """Print lines on what happens. Indented ones are to be copied, and never folded."""
        for line in lines:
            print_line(self.console, line, whole=line.startswith(" "))

    def warn(self, *lines: str) -> None:
        """Print lines on what may mislead, to stderr."""
        for line in lines:
            print_line(self._warnings, f"warning: {line}")

    def say(self, *lines: str) -> None:
        """Print lines that must be said. Indented ones are to be copied, and never folded."""
        for line in lines:
            print_line(self.urgent, line, whole=line.startswith(" "))

    def agreed(self, question: str, option: str) -> bool:
        """Ask on the terminal, and say whether the answer is yes.

        Args:
            option: what says so beforehand.

        Raises:
            InputError: there is no terminal, so nobody can be asked.
        """
        if not sys.stdin.isatty():
            raise InputError(f"{option} is needed, because there is no terminal on which to ask: {question}")
        sys.stderr.write(f"{printable(question)} [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer:  # Ctrl-D, which leaves the cursor where it is
            sys.stderr.write("\n")
        return answer.strip().lower() in ("y", "yes")

    def json(self, content: Mapping[str, Any]) -> None:
        """Write what ``--json`` asks for, if it was given: the command's name, the program's version, and the content.

        Raises:
            InputError: the file cannot be written.
        """
        file = self._json_file
        if file is None:
            return
        document = {"command": self.command, "version": program_version(), **content}
        text = json.dumps(document, indent=1) + "\n"
        if file == STDOUT:
            sys.stdout.write(text)
        else:
            writing(file, lambda: write_atomically(file, text.encode()))


def writing(path: Path, write: Callable[[], object]) -> None:
    """Do what writes a file, or looks whether it could be. Raises InputError where the system refuses."""
    try:
        write()
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {os_error_text(error)}") from None
