"""Which version of the program this is."""

import sys

DISTRIBUTION = "bo_tune"


def program_version() -> str:
    """Return the installed version; of a source tree that is not installed, what it is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "of a source tree"


def print_version() -> None:
    """Print what ``--version`` asks for."""
    sys.stdout.write(f"bo-tune {program_version()}\n")
