"""Where other processes find a user's kernel: the module that holds it, or the script that is run."""

import sys
from pathlib import Path
from types import ModuleType

from bo_tune.errors import InputError
from bo_tune.kernels.user.kernel import Kernel
from bo_tune.processes.importing import source_of

MAIN = "__main__"


def home_of(kernel: Kernel) -> str:
    """Return the module whose global the kernel is, by its name, or by its file (``processes.importing``).

    Where several hold it, that is the module that defines its ``inputs``, or else the first that was imported.

    Raises:
        InputError: no module holds it, or one that no other process could import.
    """
    holding = {
        name: module
        for name, module in list(sys.modules.items())
        if any(value is kernel for value in list(getattr(module, "__dict__", {}).values()))
    }
    if not holding:
        raise InputError(
            f"{kernel.name}: the kernel must be a global of a module or script: the processes that compile and "
            "measure import it from there"
        )
    defined_in = getattr(kernel.inputs, "__module__", None)
    name = defined_in if defined_in in holding else next(iter(holding))
    return _importable(name, holding[name], kernel)


def _importable(name: str, module: ModuleType, kernel: Kernel) -> str:
    if name != MAIN:
        return source_of(name, module)
    if module.__spec__ is not None:  # python -m
        return module.__spec__.name
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise InputError(f"{kernel.name}: a kernel is defined in a file, not at a prompt or in a notebook")
    return str(Path(file).resolve())
