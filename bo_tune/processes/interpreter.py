"""Starts Python processes that import what this one does, and nothing from the folder that they are started in.

``python -m`` and ``python -c``, which ``multiprocessing`` uses to spawn, put the current folder first on the path.
Every child would then run a file there that is named like a module of the standard library. So a child starts without
that folder (``-P``). Before it imports anything, it takes over this process's path. For example, it finds the same
modules beside a script as the script does.
"""

import sys

_START = (
    "import sys; count = int(sys.argv[1]); sys.path[:] = sys.argv[2 : 2 + count]; del sys.argv[1 : 2 + count]; "
    "from importlib import import_module; import_module(sys.argv.pop(1)).main()"
)
"""The first code of a child: it takes its path and its module from its arguments, and runs the module's ``main()``."""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command of a process that runs ``main()`` of a module, with ``arguments`` in ``sys.argv[1:]``."""
    ignored = ["-E"] * sys.flags.ignore_environment + ["-s"] * sys.flags.no_user_site
    return [sys.executable, "-P", *ignored, "-c", _START, str(len(sys.path)), *sys.path, module, *arguments]


def drop_current_folder(folder: str, package: str) -> None:
    """Remove from the path the folder that ``python -m`` put first, unless the package is run from there.

    Args:
        folder: the folder in which this process was started.
        package: the folder that holds the package, with links resolved.
    """
    if sys.path and not sys.flags.safe_path and sys.path[0] in ("", folder) and package != folder:
        del sys.path[0]
