"""The ``bo-tune`` command: parses, calls, prints."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with one of ``exit_codes``."""
    try:
        # Takes a second or more, during which Ctrl-C must do no worse than later.
        from bo_tune.processes.streams import make_streams_last  # noqa: PLC0415

        make_streams_last()
        from bo_tune.cli.app import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(130)  # ``exit_codes.INTERRUPTED``, which may not be there yet
