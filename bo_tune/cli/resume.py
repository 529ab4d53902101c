"""How to go on, as a shell takes it: with a command that was interrupted, and with what one has written."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bo_tune.core.choices import MEMORY
from bo_tune.store.connection.url import HIDDEN, shown

PROGRAM = "bo-tune"


def kept_lines(storage: str, argv: Sequence[str] | None = None, *, out: Path | None = None) -> list[str]:
    """Say where trials are kept, how to go on from there, and how to write what is finished.

    Args:
        argv: how this program was called; by default as it was.
        out: the folder that finished studies would be written into; none where there is nothing to write.
    """
    if storage == MEMORY:
        return [f"nothing is kept: --storage {MEMORY} lasts only for this session"]
    command, hidden = command_line(sys.argv if argv is None else argv)
    lines = [f"kept in {shown(storage)}; to resume, in the same folder:", f"  {command}"]
    if out is not None:
        words = [PROGRAM, "write", "--storage", shown(storage), "--out", str(out)]
        lines += ["to write the finished studies without resuming:", f"  {shlex.join(words)}"]
    return [*lines, f"  ({HIDDEN} stands for the password, which is not shown)"] if hidden else lines


def next_lines(out: Path, variables: Sequence[str], named: Sequence[str], *, is_timed: bool) -> list[str]:
    """Say what to do with a folder that was written: look at it as an engine does, time it, have an engine use it.

    Args:
        variables: those that name the folder to engines.
        named: the words that name the model, or what else said what is looked up; none where nothing did.
        is_timed: whether ``step`` can time it here.
    """
    folder = str(out.absolute())
    # Words in capitals stand for what nobody has said.
    asked = shlex.join(named) if named else "--model MODEL --max-loras N --max-lora-rank R"
    lines = [f"{PROGRAM} check {shlex.quote(folder)} {asked}"]
    if is_timed and named:
        lines.append(f"{PROGRAM} step {asked} --tuned {shlex.quote(folder)}")
    lines += [f"export {name}={shlex.quote(folder)}" for name in variables]
    return ["next steps, from any folder:", *(f"  {line}" for line in lines)]


def command_line(argv: Sequence[str]) -> tuple[str, bool]:
    """Return a command as a shell takes it, and whether a password was left out of it."""
    words = [_without_secrets(word) for word in argv[1:]]
    program = [PROGRAM] if Path(argv[0]).stem != "__main__" else [Path(sys.executable).name, "-m", "bo_tune"]
    return shlex.join([*program, *words]), words != list(argv[1:])


def _without_secrets(word: str) -> str:
    """Return a word of the command line, or the value of an option, without the secrets of a database's URL."""
    if "://" not in word:
        return word
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{shown(value)}"
