"""The ``bo-tune`` command: parses, calls, prints."""

import sys

from bo_tune.processes import exit_codes

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with one of ``exit_codes``."""
    try:
        # Takes a moment, during which Ctrl-C must do no worse than later.
        from bo_tune.processes.streams import make_streams_outlive_readers

        make_streams_outlive_readers()
        if sys.argv[1:] == ["--version"]:  # needs nothing of what follows
            from bo_tune.cli.version import print_version

            print_version()
            return
        from bo_tune.processes.garbage import less_frequent_gc

        with less_frequent_gc():  # what is imported is kept: a fifth of the time went into looking through it
            from bo_tune.cli.app import main as run

            run()
    except MemoryError:
        sys.stderr.write("bo-tune: out of memory; check whether a limit is set (ulimit -v)\n")
        sys.exit(exit_codes.BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)
