"""Starts Python processes that import what this one does, and nothing out of the folder they are started in.

``python -m`` and ``python -c``, with which ``multiprocessing`` spawns too, put the current folder first on the path. A
file in it that is named like a module of the standard library would be run by every child. So a child starts without
that folder (``-P``) and, before it imports anything, takes over this process's path: next to a script, say, it finds
what the script finds.
"""

import sys

_START = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2 : 2 + count]; del sys.argv[1 : 2 + count]; "
    "from importlib import import_module; import_module(sys.argv.pop(1)).main()"
)
"""What a child does first: it takes its path and its module off its arguments, and runs the module's ``main()``."""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command of a process that runs ``main()`` of a module, with ``arguments`` in ``sys.argv[1:]``."""
    ignored = ["-E"] * sys.flags.ignore_environment + ["-s"] * sys.flags.no_user_site
    return [sys.executable, "-P", *ignored, "-c", _START, str(len(sys.path)), *sys.path, module, *arguments]


def drop_current_folder(folder: str, package: str) -> None:
    """Take the folder that ``python -m`` put first off the path, unless the package is run from there.

    Args:
        folder: where this process was started.
        package: the folder that holds the package, without a link in it.
    """
    if sys.path and not sys.flags.safe_path and sys.path[0] in ("", folder) and package != folder:
        del sys.path[0]
