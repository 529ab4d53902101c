"""Identifies the code of a user's kernel. Results of different code never mix, and unrelated changes have no effect.

The code is the kernel, with every jit function and constant that it uses, as found by Triton's own finder of
dependencies. It includes the Python functions that define the launch and the right results, with the user's functions
that they call. Only the syntax tree of each function counts: not its place, its docstring or its comments. Other
functions in the same file do not count at all.
"""

import ast
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from triton.language import constexpr
from triton.language import dtype as triton_dtype
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import DependenciesFinder, JITCallable

from bo_tune.errors import InputError, one_line
from bo_tune.kernels.user.definition import Definition
from bo_tune.kernels.user.identity.home import modules_of
from bo_tune.kernels.user.identity.source_text import source_tree

DIGITS = 10
"""Number of hexadecimal digits to keep, short enough for people to read."""

VERSIONED = ("triton", "torch")
"""Packages whose code has a version of its own, even if they are installed in an unusual way."""

_LIBRARIES = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib"))

PLAIN = (bool, int, float, complex, str, bytes, type(None), triton_dtype)
"""Types of values that are identified by their text."""


def source_of(kernel: Definition, home: Path) -> str:
    """Return the name of a kernel's code: the file that defines it, and a digest of the code.

    Args:
        home: the file.
    """
    found = _Code({name.partition(".")[0] for name in modules_of(kernel)})
    for function in kernel.functions:
        found.add(function)
    said = [f"{kernel.output_names} {sorted(kernel.read_outputs)} {kernel.tolerances}", *kernel.more_that_counts]
    digest = hashlib.sha256("\n".join([*said, *sorted(found.texts)]).encode()).hexdigest()
    return f"{home.name} {digest[:DIGITS]}"


class _Code:
    """All code that is reached from the added values.

    Args:
        own: packages that are the user's, wherever they are installed.

    Attributes:
        texts: texts of functions, and of the constants that they use.
    """

    def __init__(self, own: Set[str]) -> None:
        self.texts: set[str] = set()
        self._own = own
        self._seen: dict[int, object] = {}  # kept alive, so that no other object gets the same id

    def add(self, value: Any) -> None:
        """Add a function, or a value that a function uses, with all its parts."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, PLAIN) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            waiting += self._parts(value)

    def _parts(self, value: Any) -> Iterable[Any]:
        """Note the text of a value, and return its other parts."""
        if isinstance(value, JITCallable):
            return self._of_triton(value)
        if isinstance(value, InterpretedFunction):
            return self._of_python(value.fn)
        if isinstance(value, Heuristics):
            return [value.fn, *value.values.values()]
        if isinstance(value, Autotuner):
            self.texts.add("; ".join(map(str, value.configs)))
            return [value.fn, *(config.pre_hook for config in value.configs)]
        if isinstance(value, FunctionType):
            return self._of_python(value)
        if isinstance(value, MethodType):
            return [value.__func__]
        if isinstance(value, partial):
            return [value.func, *value.args, value.keywords]
        if isinstance(value, constexpr):
            return [value.value]
        if isinstance(value, Mapping):
            return value.values()
        if isinstance(value, (tuple, list, set, frozenset)):
            return value
        if isinstance(value, type):
            return [] if self._is_library(None, value.__module__) else list(vars(value).values())
        wrapped = getattr(value, "__wrapped__", None) or getattr(value, "__func__", None)
        return [] if wrapped is None else [wrapped]

    def _of_triton(self, function: Any) -> list[Any]:
        if function.fn.__module__.partition(".")[0] in VERSIONED:
            return []
        try:
            finder = _Finder(function)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise InputError(f"{function.fn.__name__}: Triton cannot compile it: {one_line(error)}") from error
        self._note(function.fn, finder.values)
        return [*finder.called, *finder.values.values()]

    def _of_python(self, function: FunctionType) -> list[Any]:
        if self._is_library(function.__code__.co_filename, function.__module__ or ""):
            return []
        used = dict(self._used_by(function))
        self._note(function, used)
        return list(used.values())

    def _used_by(self, function: FunctionType) -> Iterator[tuple[str, Any]]:
        """Yield the globals, closure variables and defaults that a Python function uses, also through modules."""
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        yield from ((f"default {number}", value) for number, value in enumerate(defaults))
        names = sorted(set(_names_in(function.__code__)))
        known = {**function.__globals__, **dict(_enclosed_by(function))}
        waiting = [(name, known[name]) for name in names if name in known]
        seen: set[int] = set()
        while waiting:
            name, value = waiting.pop()
            if not isinstance(value, ModuleType):
                yield name, value
            elif id(value) not in seen and not self._is_library(getattr(value, "__file__", None), value.__name__):
                seen.add(id(value))
                waiting += [(f"{name}.{one}", vars(value)[one]) for one in names if one in vars(value)]

    def _is_library(self, file: str | None, module: str) -> bool:
        """Say whether code comes from elsewhere and has a version of its own."""
        package = module.partition(".")[0]
        if package in self._own:
            return False
        if file is None:
            file = getattr(sys.modules.get(module), "__file__", None)
        return file is None or file.startswith(_LIBRARIES) or package in VERSIONED

    def _note(self, function: FunctionType, used: Mapping[str, Any]) -> None:
        constants = sorted(f"{name}={text}" for name, value in used.items() if (text := _text_of(value)))
        self.texts.add("\n".join([source_tree(function), *constants]))


class _Finder(DependenciesFinder):  # type: ignore[misc]  # Triton has no types
    """Triton's finder, extended to note the functions and values that it finds. Triton's hashes their raw text.

    Attributes:
        called: jit functions.
        values: other values, by name.
    """

    def __init__(self, function: Any) -> None:
        nonlocals = inspect.getclosurevars(function.fn).nonlocals
        super().__init__(function.fn.__name__, function.fn.__globals__, nonlocals, function.src)
        self.called: list[Any] = []
        self.values: dict[str, Any] = {}
        self.visit(function.parse())

    def visit_Attribute(self, node: ast.Attribute) -> Any:  # noqa: N802 - so ast calls it
        found = super().visit_Attribute(node)
        self._note(ast.unparse(node), found)
        return found

    def record_reference(self, val: Any, var_dict: Any = None, name: str | None = None) -> None:
        if name is not None:
            self._note(name, val)
        super().record_reference(val, var_dict, name)

    def _note(self, name: str, value: Any) -> None:
        if isinstance(value, (constexpr, tuple, *PLAIN)) and value is not None:
            self.values[name] = value

    def _update_hash(self, func: Any) -> None:
        self.called.append(func)


def _enclosed_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables of a closure that have a value by now."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):
            yield name, cell.cell_contents


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _text_of(value: Any) -> str:
    """Return the text of a value identified by it; empty for others, whose text differs from process to process."""
    if isinstance(value, constexpr):
        return _text_of(value.value)
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_text_of, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text_of(key)}: {_text_of(one)}' for key, one in value.items())}}}"
    return ""
