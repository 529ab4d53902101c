"""The command line's entry: commands, their help, and what becomes of errors."""

import inspect
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import typer

from bo_tune.cli import exit_codes
from bo_tune.cli import options as o
from bo_tune.cli.check import check_command
from bo_tune.cli.compile import compile_command
from bo_tune.cli.exchange import delete_command, export_command, import_command, merge_command
from bo_tune.cli.inspection import compare_command, show_command, simulate_command
from bo_tune.cli.output import program_version
from bo_tune.cli.report import report_command
from bo_tune.cli.search import grid_command, tune_command
from bo_tune.cli.usage import UsageError, usage_line
from bo_tune.cli.worker import worker_command
from bo_tune.errors import BoTuneError, InputError, one_line, printable
from bo_tune.processes.streams import fault_of, hurry
from bo_tune.store.storage import silence_optuna
from bo_tune.store.url import urls_shown

EXAMPLES = "\n\nExamples:\n"
"""What stands between a command's description and its examples, in its docstring."""

LONGEST_MESSAGE = 4000
"""Characters of what is said of an error, which may quote what others wrote."""

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TUNING, LOOKING, MOVING = "Tune", "Look at what was found", "Move it elsewhere"

app = typer.Typer(
    name="bo-tune",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in exit_codes.MEANINGS.items()),
)


def add(name: str, command: Callable[..., None], panel: str) -> None:
    """Add a command. The examples of its docstring come last in its help, as they are written."""
    text, _, examples = (inspect.getdoc(command) or "").partition(EXAMPLES)
    epilog = f"Examples:\n{examples}" if examples else None
    app.command(name, help=text, epilog=epilog, rich_help_panel=panel)(command)


add("tune", tune_command, TUNING)
add("grid", grid_command, TUNING)
add("worker", worker_command, TUNING)
add("compile", compile_command, TUNING)
add("simulate", simulate_command, TUNING)
add("show", show_command, LOOKING)
add("report", report_command, LOOKING)
add("check", check_command, LOOKING)
add("compare", compare_command, LOOKING)
add("export", export_command, MOVING)
add("import", import_command, MOVING)
add("merge", merge_command, MOVING)
add("delete", delete_command, MOVING)


@app.callback(invoke_without_command=True)
def without_command(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", metavar=o.FLAG, help="Show the version and exit.")] = False,
) -> None:
    """Tune Triton kernels with Bayesian optimisation and write the JSON that vLLM loads."""
    if show_version:
        sys.stdout.write(f"bo-tune {program_version()}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help())


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    hurry.begin()
    raise KeyboardInterrupt


def _be_interruptible() -> None:
    """End in order when asked to: by Ctrl-C, by whoever ends services, or with the terminal."""
    for number in INTERRUPTIONS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks, and a shell for what runs behind it
            signal.signal(number, _interrupt)


def main() -> None:
    """Run the command line and exit with one of ``exit_codes``."""
    silence_optuna()
    _be_interruptible()
    code = _run()
    if (fault := fault_of(sys.stdout)) is not None:
        code = code or _fail(f"stdout: {fault}", exit_codes.FAILED)
    sys.exit(code)


def _run() -> int:
    try:
        code: int | None = app(standalone_mode=False)
    except UsageError as error:
        return _fail(usage_line(error), exit_codes.BAD_INPUT)
    except InputError as error:
        return _fail(str(error), exit_codes.BAD_INPUT)
    except BoTuneError as error:
        return _fail(one_line(error), exit_codes.FAILED)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    return code or exit_codes.DONE


def _fail(message: str, code: int) -> int:
    # A URL may stand where a file is expected. Half a one would not be told: what is too long ends with a whole word.
    whole = len(message) <= LONGEST_MESSAGE
    told = message if whole else f"{message[:LONGEST_MESSAGE].rpartition(' ')[0]} …"
    sys.stderr.write(f"bo-tune: {printable(urls_shown(told))}\n")
    return code
