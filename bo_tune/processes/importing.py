"""Imports modules by name, and files by their path: a script that is run has no name that another process could import.

A script is imported as ``multiprocessing`` does when it spawns: under another name, so that what stands below
``if __name__ == "__main__"`` is not run.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from bo_tune.errors import InputError

_BY_FILE = "__script_"
"""How the names of modules begin that were imported by their file."""

_under_way: list[str] = []


def import_source(source: str) -> ModuleType:
    """Import a module by its name, or the Python file of a path; each once in a process.

    Raises:
        InputError: there is no such file.
    """
    with _noted(source):
        return _import_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)


def is_importing() -> bool:
    """Say whether a source is being imported just now."""
    return bool(_under_way)


def source_of(name: str, module: ModuleType) -> str:
    """Return how ``import_source`` finds an imported module again: by its file where that is how it was imported."""
    return str(module.__file__) if name.startswith(_BY_FILE) else name


@contextmanager
def _noted(source: str) -> Iterator[None]:
    _under_way.append(source)
    try:
        yield
    finally:
        _under_way.pop()


def _import_file(path: Path) -> ModuleType:
    name = f"{_BY_FILE}{path.stem}__"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None or not path.is_file():
        raise InputError(f"{path} cannot be imported: there is no such file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
