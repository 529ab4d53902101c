"""The ``bo-tune`` command: parses, calls, prints."""

import sys

from bo_tune.cli import exit_codes
from bo_tune.cli.version import print_version
from bo_tune.processes.streams import make_streams_last

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with one of ``exit_codes``."""
    make_streams_last()
    try:
        if sys.argv[1:] == ["--version"]:  # needs nothing of what follows
            print_version()
            return
        # Takes a second or more, during which Ctrl-C must do no worse than later.
        from bo_tune.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)
