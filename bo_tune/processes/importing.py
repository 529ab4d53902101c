"""Imports modules by name, and files by path: a script that is run has no name that another process could import.

A script is imported as ``multiprocessing`` does when it spawns: under another name, so that the code below ``if
__name__ == "__main__"`` does not run.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from bo_tune.errors import InputError, one_line

_BY_FILE = "__script_"
"""Prefix of the names of modules that were imported by file."""

_GPU_MODULES = ("torch.cuda", "triton.runtime.driver", "triton.backends")
"""Modules that code which asks for a GPU runs through."""

_TRITON_DRIVER = "Triton Error ["
"""Prefix of the error messages of Triton's driver, whose compiled functions leave no frame."""

_WHERE_IT_BELONGS = (
    'make what needs a GPU in the kernel\'s `inputs`, which is given the device, or below `if __name__ == "__main__":`'
)

_under_way: list[str] = []


class LateModule:
    """Stands in for a module of another package, which is imported on first use.

    SciPy's modules take a third of a second of a core. A run that finds all its studies done needs none of them.
    """

    names: ClassVar[set[str]] = set()
    """Names of all such modules in this process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.names.add(name)

    @classmethod
    def import_all(cls) -> None:
        """Import all of them now. A process that forks others does so once for all of them."""
        for name in sorted(cls.names):
            importlib.import_module(name)

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)  # next time this function is not called
        return found


def missing_packages() -> list[str]:
    """Return those packages that are missing but needed to compile and measure kernels. Loads none."""
    return [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]


def import_source(source: str) -> ModuleType:
    """Import a module by its name, or a Python file by its path. Each is imported once in a process.

    Raises:
        InputError: there is no such file, or it wants a GPU and there is none.
    """
    with _noted(source):
        try:
            return _import_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
        except Exception as error:
            if not _asked_for_a_gpu(error):
                raise
            why = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(
                f"{source} needs a GPU while it is imported, but there is none for it ({why}): {_WHERE_IT_BELONGS}"
            ) from error


def import_to_fork(source: str, in_use: Iterable[Callable[[], bool]] = ()) -> ModuleType:
    """Import a source where other processes will be forked. They could not use a GPU that is in use there.

    Args:
        in_use: functions that say whether this process uses a GPU in other ways than through torch.

    Raises:
        InputError: as ``import_source``, or it uses the GPU while it is imported.
    """
    module = import_source(source)
    if _torch_uses_a_gpu() or any(said() for said in in_use):
        raise InputError(
            f"{source} uses the GPU while it is imported, so the processes that measure cannot use it: "
            f"{_WHERE_IT_BELONGS}"
        )
    return module


def is_importing() -> bool:
    """Say whether a source is being imported right now."""
    return bool(_under_way)


def source_of(name: str, module: ModuleType) -> str:
    """Return the source by which ``import_source`` finds a module again: its file, if it was imported by file."""
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
        raise InputError(f"{path} cannot be imported: the file does not exist")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _asked_for_a_gpu(error: BaseException) -> bool:
    """Say whether an error comes from code that asks for a GPU."""
    if str(error).startswith(_TRITON_DRIVER):
        return True
    names = (frame.f_globals.get("__name__") or "" for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith(_GPU_MODULES) for name in names)


def _torch_uses_a_gpu() -> bool:
    """Say whether torch uses a GPU in this process. Does not load it."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
