"""The entry of the command line: commands, their help, and how errors end."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from importlib import import_module
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from bo_tune.errors import BoTuneError, InputError, one_line, printable
from bo_tune.processes import exit_codes
from bo_tune.processes.interruption import at_exit, interruptible
from bo_tune.processes.streams import fault_of

UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The error that typer raises for a command line that it refuses. Its versions have no common name for it: older ones
raise the error that click defines."""

EXAMPLES = "\n\nExamples:\n"
"""The text between a command's description and its examples, in its docstring."""

LAST_WORDS = "bo-tune: exited before everything had stopped; recorded trials are kept\n"

LONGEST_MESSAGE = 4000
"""Most characters of an error message, which may quote other texts."""

COMMANDS = {
    "Tune": {
        "doctor": "doctor",
        "studies": "studies",
        "folders": "folders",
        "problems": "problems",
        "tune": "search",
        "grid": "search",
        "worker": "worker",
        "compile": "compile",
        "simulate": "inspection",
    },
    "Look at results": {
        "show": "inspection",
        "report": "report",
        "check": "check",
        "step": "step",
        "warm": "warm",
        "compare": "inspection",
        "diff": "diff",
    },
    "Move results": {
        "export": "exchange",
        "import": "exchange",
        "write": "exchange",
        "merge": "exchange",
        "delete": "exchange",
    },
}
"""By the panel of ``--help``: each command, and the module of ``cli.commands`` that holds it."""


class LazyGroup(TyperGroup):
    """The commands, each imported when it is run, described or completed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        named = {name: None for commands in COMMANDS.values() for name in commands}
        self.commands: dict[str, Any] = named  # None until it is asked for; the names are what suggestions go by

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or None where there is none of this name."""
        if cmd_name in self.commands and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _command(cmd_name)
        return self.commands.get(cmd_name)


class Command(TyperCommand):
    """A command that reads the values of its options when it runs, not where TAB completes it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line. TAB asks which options were given; what checks their values takes longer to load."""
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        given, rest, _ = self.make_parser(ctx).parse_args(args=args)
        for param in self.get_params(ctx):
            _, source = param.consume_value(ctx, given)
            ctx.set_parameter_source(param.name, source)
        ctx.args = rest
        return rest


def _command(name: str) -> Any:
    """Build a command. The examples of its docstring come last in its help, as they are written."""
    panel, module = next((panel, found[name]) for panel, found in COMMANDS.items() if name in found)
    function = getattr(import_module(f"bo_tune.cli.commands.{module}"), f"{name}_command")
    text, _, examples = (inspect.getdoc(function) or "").partition(EXAMPLES)
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=CONTEXT)
    epilog = f"Examples:\n{examples}" if examples else None
    alone.command(name, cls=Command, help=text, epilog=epilog, rich_help_panel=panel)(with_groups(function))
    return typer.main.get_command(alone)


def with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Return a command that has, in place of a parameter that is a dataclass, an option for each of its fields."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    fields = {name: inspect.signature(group).parameters for name, group in groups.items()}
    own = inspect.signature(function).parameters
    parameters = [p for name in own for p in fields.get(name, {name: own[name]}).values()]

    @wraps(function)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field: values.pop(field) for field in fields[name]})
        function(**values)

    command.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])  # type: ignore[attr-defined]
    return command


CONTEXT = {"help_option_names": ["-h", "--help"]}

UNREAD = {"help": False, "install_completion": False, "show_completion": False}
"""Values of the program's own flags where they are not given. For None, which is typer's default, typer would read
modules that TAB need not load."""

app = typer.Typer(
    name="bo-tune",
    cls=LazyGroup,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={**CONTEXT, "default_map": UNREAD},
    epilog="Exit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in exit_codes.MEANINGS.items()),
)


@app.callback(invoke_without_command=True)
def without_command(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", metavar="", help="Show the version and exit.")] = False,
) -> None:
    """Tune Triton kernels with Bayesian optimisation and write the JSON that vLLM loads."""
    if show_version:
        from bo_tune.cli.version import print_version

        print_version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help())


def main() -> None:
    """Run the command line and exit with one of ``exit_codes``."""
    forget = at_exit(_print_last_words)
    with interruptible(exit_codes.INTERRUPTED):
        code = _run()
        if (fault := fault_of(sys.stdout)) is not None:
            code = code or _fail(f"stdout: {fault}", exit_codes.FAILED)
    forget()
    sys.exit(code)


def _print_last_words() -> None:
    sys.stderr.write(LAST_WORDS)
    sys.stderr.flush()


def _run() -> int:
    try:
        code: int | None = app(standalone_mode=False)
    except UsageError as error:
        return _fail(_usage_line(error), exit_codes.BAD_INPUT)
    except InputError as error:
        return _fail(str(error), exit_codes.BAD_INPUT)
    except BoTuneError as error:
        return _fail(one_line(error), exit_codes.FAILED)
    except OSError as error:  # of a place that nobody had more to say of: closed, full, not what it should be
        from bo_tune.files import os_error_line

        return _fail(os_error_line(error), exit_codes.BAD_INPUT)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    return code or exit_codes.DONE


def _usage_line(error: Exception) -> str:
    """Return what is wrong with a command line, and where to read how it is meant."""
    context = getattr(error, "ctx", None)
    message: str = getattr(error, "format_message", error.__str__)()
    place = ""
    if isinstance(error, typer.BadParameter) and error.param is not None and error.message:
        message, place = error.message, max(error.param.opts, key=len, default=error.param.name or "") + ": "
    # In one line, without what the library that checks values puts before it.
    text = " ".join(message.split()).rstrip(".").removeprefix("Value error, ")
    return f"{place}{text[:1].lower()}{text[1:]}; see {context.command_path if context else 'bo-tune'} --help"


def _fail(message: str, code: int) -> int:
    from bo_tune.store.connection.url import urls_shown

    # A URL may stand where a file is expected. Half a one would not be told: what is too long ends with a whole word.
    whole = len(message) <= LONGEST_MESSAGE
    told = message if whole else f"{message[:LONGEST_MESSAGE].rpartition(' ')[0]} …"
    sys.stderr.write(f"bo-tune: {printable(urls_shown(told))}\n")
    return code
