"""What the command line itself refuses, in one line."""

import typer

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises of a command line that it refuses. It has no name in common to typer's versions: older ones raise
what click defines."""


def usage_line(error: Exception) -> str:
    """Return what is wrong with a command line, and where to read how it is meant."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bo-tune"
    return f"{_what(error)}; see {command} --help"


def _what(error: Exception) -> str:
    if isinstance(error, typer.BadParameter) and error.param is not None and error.message:
        name = max(error.param.opts, key=len, default=error.param.name or "")
        return f"{name}: {_flat(error.message)}"
    message: str = getattr(error, "format_message", error.__str__)()
    return _flat(message)


def _flat(message: str) -> str:
    """Return a message in one line, without what the library that checks values puts before it."""
    text = " ".join(message.split()).rstrip(".").removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
