"""The command line's entry: commands, and what becomes of errors."""

import signal
import sys
from types import FrameType

import typer

from bo_tune.cli.check import check_command
from bo_tune.cli.compile import compile_command
from bo_tune.cli.exchange import export_command, import_command, merge_command
from bo_tune.cli.inspection import compare_command, show_command, simulate_command
from bo_tune.cli.search import grid_command, tune_command
from bo_tune.cli.worker import worker_command
from bo_tune.errors import BoTuneError, InputError, one_line
from bo_tune.store.storage import silence_optuna

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="bo-tune",
    help="Tune Triton kernels with Bayesian optimisation and write the JSON that vLLM loads.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("tune")(tune_command)
app.command("grid")(grid_command)
app.command("worker")(worker_command)
app.command("compile")(compile_command)
app.command("check")(check_command)
app.command("compare")(compare_command)
app.command("simulate")(simulate_command)
app.command("show")(show_command)
app.command("export")(export_command)
app.command("import")(import_command)
app.command("merge")(merge_command)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit: 0 done, 1 a study or a check failed, 2 bad input, 130 interrupted."""
    silence_optuna()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except InputError as error:
        sys.exit(_fail(error, EXIT_BAD_INPUT))
    except BoTuneError as error:
        sys.exit(_fail(error, EXIT_FAILED))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: BoTuneError, code: int) -> int:
    sys.stderr.write(f"bo-tune: {one_line(error)}\n")
    return code
