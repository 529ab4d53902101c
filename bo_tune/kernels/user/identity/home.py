"""Finds the home and the name of a user's kernel for other processes: the module that holds it, or the script."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from bo_tune.errors import InputError
from bo_tune.kernels.user.definition import Definition
from bo_tune.processes.importing import source_of

MAIN = "__main__"

_AUTOTUNED = "bo_tune.kernels.autotuned.tuner"
_HEURISTICS = "triton.runtime.autotuner"
"""Modules of decorators that may stand above a kernel. Neither is imported for this."""


def home_of(kernel: Definition) -> str:
    """Return the module that has the kernel as a global, by its name, or by its file (``processes.importing``).

    Raises:
        InputError: no module holds it, or only one that no other process could import.
    """
    name = _home_name(kernel)
    if name is None:
        raise InputError(
            f"{kernel.name}: expected a global of a module or script, because the processes that compile and "
            "measure import the kernel from there"
        )
    return _importable(name, sys.modules[name], kernel)


def file_of(kernel: Definition) -> Path:
    """Return the file of the module that has a kernel as a global. Raises InputError if there is none."""
    file = getattr(sys.modules.get(_home_name(kernel) or ""), "__file__", None)
    if file is None:
        raise InputError(f"{kernel.name}: the kernel is not a global of a module that has a file")
    return Path(file)


def uniquely_named(kernel: Definition) -> Definition:
    """Return a kernel under its name in its module (``kernel_in``); unchanged if no module holds it.

    Raises:
        InputError: another kernel there has exactly the same name.
    """
    home = _home_name(kernel)
    if home is None:
        return kernel
    return replace(kernel, name=_name_in(kernel, _globals_of(sys.modules[home])))


def kernel_in(module: ModuleType, name: str) -> Definition:
    """Return the kernel of a module that has a name, or is a global of that name.

    Several kernels over one function share its name if they have no names of their own. Then each takes the name of its
    global.

    Raises:
        InputError: there is none.
    """
    held = _globals_of(module)
    named = [kernel for kernel in held.values() if kernel.name == name]
    if len(named) == 1:
        return named[0]
    if name in held:
        return replace(held[name], name=name)
    known = ", ".join(kernel.name for kernel in held.values()) or "none"
    raise InputError(f"{module.__file__}: there is no kernel {name!r}; expected one of {known}")


def _globals_of(module: ModuleType) -> dict[str, Definition]:
    """Return the kernels that are globals of a module, each once, by the name of the first such global."""
    found: dict[str, Definition] = {}
    for name, value in list(getattr(module, "__dict__", {}).items()):
        kernel = _definition_of(value)
        if kernel is not None and all(kernel is not other for other in found.values()):
            found[name] = kernel
    return found


def _definition_of(value: Any) -> Definition | None:
    """Return the definition behind a global, if any. A kernel under ``bo_tune.autotune`` has its own definition."""
    kind = type(value)
    if issubclass(kind, Definition):
        kernel: Definition = value
        return kernel
    if kind.__module__ == _HEURISTICS and kind.__name__ == "Heuristics":
        return _definition_of(vars(value).get("fn"))
    if kind.__module__ != _AUTOTUNED or kind.__name__ != "Autotuned":
        return None
    try:
        own: Definition = value.definition
    except InputError:  # raised again for whoever wants to tune it
        return None
    return own


def _name_in(kernel: Definition, held: Mapping[str, Definition]) -> str:
    alike = [other for other in held.values() if other.name == kernel.name and other is not kernel]
    if not alike:
        return kernel.name
    own = next(name for name, value in held.items() if value is kernel)
    if own == kernel.name and kernel.is_its_function:
        return own
    taken = any(other.name == own for other in held.values())
    if kernel.name != kernel.given_name or taken:
        raise InputError(
            f"two kernels of a module are called {own if taken else kernel.name!r}; give one of them another name="
        )
    return own


def _home_name(kernel: Definition) -> str | None:
    """Return the name of the module that holds a kernel. Of several, return the one that defines it."""
    holding = [
        name for name, module in list(sys.modules.items()) if any(k is kernel for k in _globals_of(module).values())
    ]
    wanted = (kernel.defined_in, *modules_of(kernel))
    others = [name for name in holding if name != MAIN]
    return next((name for name in (*wanted, *others, *holding) if name in holding), None)


def modules_of(kernel: Definition) -> tuple[str, ...]:
    """Return the names of the modules of a kernel's own functions, in order."""
    functions = (getattr(function, "fn", function) for function in kernel.own_functions)
    names = (getattr(function, "__module__", None) for function in functions)
    return tuple(dict.fromkeys(name for name in names if name))


def _importable(name: str, module: ModuleType, kernel: Definition) -> str:
    if name != MAIN:
        if module.__spec__ is None and getattr(module, "__file__", None) is None:
            raise InputError(f"{kernel.name}: define the kernel in a file, not in code that is generated at run time")
        return source_of(name, module)
    if module.__spec__ is not None:  # python -m
        return module.__spec__.name
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        raise InputError(f"{kernel.name}: define the kernel in a file, not at a prompt or in a notebook")
    return str(Path(file).resolve())
