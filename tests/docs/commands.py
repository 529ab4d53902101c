"""Commands of the documentation: taken out of blocks, parsed by the command line, run, and their output compared."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import click
import forked
import typer
from helpers import PATIENCE_S, ROOT
from pages import Block

from bo_tune.cli import main
from bo_tune.cli.app import app
from bo_tune.formats.study_file import load_study_file

BIN = Path(sys.executable).parent
MEASURING = ("tune", "grid", "worker", "doctor")
"""Commands that need a GPU unless they replay recordings."""

_SHELL = re.compile(r"[|&;<>$`*(){}~]|^\w+=")
_CONFIG = r"(?:m|n|k|w|s|sk|g)\d+"
_FOUND = re.compile(rf"(?<!\S)(?:{_CONFIG}(?: {_CONFIG})*|same|slow \d+|-)(?!\S)")
"""Cells of tables that another machine's arithmetic may fill otherwise: a config, whether both searches found the same
one, how many configs were slow."""

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_RULE = re.compile(r"[─━═]+")
_ANY = "…"
_INTERRUPT = "^C"


@dataclass(frozen=True)
class Command:
    """A command, and the output that its page shows.

    Attributes:
        expected: lines; none where the page shows no output.
        line: of the first of them in the page, from 0.
    """

    text: str
    expected: tuple[str, ...] = ()
    line: int = 0


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a block: those after ``$`` in a console, else the whole script."""
    lines = block.text.splitlines()
    if block.language == "bash":
        yield Command(block.text)
        return
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            at += 1
            continue
        first = at
        while lines[at].endswith("\\"):
            at += 1
        at += 1
        text = "\n".join([lines[first][2:], *lines[first + 1 : at]])
        start = at
        while at < len(lines) and not lines[at].startswith("$ "):
            at += 1
        yield Command(text, tuple(lines[start:at]), block.line + start)


def simple_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a script, without pipes, assignments and comments."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word and not set(word) <= set("|&;"):
                words.append(word)
                continue
            while words and re.match(r"\w+=", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


def untold_need(text: str) -> str | None:
    """Return what a script needs that tests have not, as far as its commands tell; None where it can run."""
    for words in simple_commands(text):
        if words[0] == "vllm":
            return "vllm"
        if words[0] == "make":
            return "minutes"
        if words[0] == "bo-tune" and words[1] in MEASURING and not any("replay:" in word for word in words):
            return "gpu"
    return None


def parse(text: str, folder: Path) -> None:
    """Check a script without running it: commands and options exist, study files validate, make knows its targets."""
    for words in simple_commands(text):
        if words[0] == "make":
            subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=30)
        if words[0] != "bo-tune":
            continue
        group = typer.main.get_command(app)
        assert isinstance(group, click.Group) or hasattr(group, "resolve_command")
        with group.make_context("bo-tune", words[1:]) as context:
            _, command, rest = group.resolve_command(context, words[1:])  # type: ignore[attr-defined]
            with command.make_context(words[1], rest, parent=context) as parsed:
                study = parsed.params.get("study")
        if isinstance(study, Path) and study.parts[0] == "studies":
            load_study_file(folder / study)


def unknown_options(words: Sequence[str]) -> list[str]:
    """Return the options of a ``bo-tune`` command, perhaps cut short, that it does not know; its name if unknown."""
    group = typer.main.get_command(app)
    names: list[str] = group.list_commands(None)  # type: ignore[attr-defined]
    if len(words) < 2 or not re.fullmatch(
        r"[a-z][a-z-]*", words[1]
    ):  # an option of the program's own, or COMMAND, which stands for any
        return []
    if words[1] not in names:
        return [words[1]]
    known = group.get_command(None, words[1])  # type: ignore[attr-defined]
    there = {name for option in known.params for name in (*option.opts, *option.secondary_opts)}
    there |= {"--help", "-h"}
    options = [word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)]
    return [option for option in options if option not in there]


def run(command: Command, folder: Path) -> tuple[int, str]:
    """Run a command in a folder; returns its exit code and what it wrote, to stdout and stderr together."""
    if any(line.startswith(_INTERRUPT) for line in command.expected):
        return _interrupted(command, folder)
    text = command.text.replace("\\\n", " ")
    words = shlex.split(text, comments=True)
    if words[0] == "bo-tune" and not _SHELL.search(text.partition(" #")[0]):
        return _in_process(words)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.text],
        cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return done.returncode, done.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "160"}


def _in_process(words: Sequence[str]) -> tuple[int, str]:
    """Run the command line in this process: starting Python anew for each command would take most of the time."""
    output, code = StringIO(), 0
    before, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = list(words)
    try:
        with redirect_stdout(output), redirect_stderr(output):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)
    return code, output.getvalue()


def _interrupted(command: Command, folder: Path) -> tuple[int, str]:
    """Run a command, and press Ctrl-C when it has written as many lines as the page shows before that."""
    shown = [line for line in command.expected if line.strip()]
    awaited = next(index for index, line in enumerate(shown) if line.startswith(_INTERRUPT))
    words = [str(BIN / "bo-tune"), *shlex.split(command.text, comments=True)[1:]]
    with forked.Popen(
        words, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        before: list[str] = []
        while sum(map(_counts, before)) < awaited:
            before.append(process.stdout.readline())
            assert before[-1], "".join(before)
        process.send_signal(signal.SIGINT)
        after = process.stdout.read()
        return process.wait(timeout=PATIENCE_S), "".join(before) + _INTERRUPT + "\n" + after


def _words(line: str) -> str:
    """Return a line as it is compared: its words, whatever the numbers, spaces, widths of rules and configs found."""
    return " ".join(_RULE.sub("─", _NUMBER.sub("#", _FOUND.sub("*", " ".join(line.split())))).split())


def _alike(expected: str, line: str) -> bool:
    parts = [re.escape(part) for part in _words(expected).split(_ANY)]
    return re.fullmatch(".*".join(parts), _words(line)) is not None


def _counts(line: str) -> bool:
    """Say whether a line is compared: neither empty nor one of those that are printed every ten seconds."""
    return bool(line.strip()) and not line.startswith("progress ")


def align(expected: Sequence[str], output: Sequence[str]) -> list[int | None] | None:
    """Return for each expected line the line of the output that it shows, or None where the output is another.

    Numbers may differ. ``…`` stands for any text in a line, alone in one for any lines. Empty lines and those of
    progress do not count.
    """
    if not expected:
        return None if any(map(_counts, output)) else []
    first, rest = expected[0], expected[1:]
    if not _counts(first):
        found = align(rest, output)
        return None if found is None else [None, *found]
    starts = range(len(output) + 1) if first.strip() == _ANY else [0]
    for start in starts:
        at = start
        if first.strip() != _ANY:
            at = next((i for i, line in enumerate(output) if _counts(line)), len(output))
            if at == len(output) or not _alike(first, output[at]):
                continue
        found = align(rest, output[at + (first.strip() != _ANY) :])
        if found is not None:
            offset = at + (first.strip() != _ANY)
            own = None if first.strip() == _ANY else at
            return [own, *(None if i is None else i + offset for i in found)]
    return None


def renewed(expected: Sequence[str], output: Sequence[str]) -> list[str]:
    """Return the lines that the page should show: as it shows them, with today's numbers; all where they differ."""
    found = align(expected, output)
    if found is None:
        lines = [line.rstrip() for line in "\n".join(output).strip().splitlines() if _counts(line) or not line.strip()]
        return [line for line, before in zip(lines, ["", *lines], strict=False) if line or before]
    return [
        line if at is None or _ANY in line else output[at].rstrip()
        for line, at in zip(expected, found, strict=True)
    ]  # fmt: skip
