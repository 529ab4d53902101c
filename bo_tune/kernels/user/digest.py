"""Which text a user's kernel is: results of different texts never mix."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from bo_tune.kernels.user.kernel import Kernel

DIGITS = 10
"""Hexadecimal digits that are kept, to be read by people."""

NOT_THE_USERS = ("triton.", "torch.")
"""Modules whose jit functions come with a version of their own."""


def source_of(kernel: Kernel, home: Path) -> str:
    """Return the name of a kernel's text: its file, and a digest of all files that it is made of.

    Those are the file that defines the kernel, and those of its Python functions and of the jit functions that it
    calls. What is below ``if __name__ == "__main__"`` does not count, nor do comments and layout.

    Args:
        home: the file that defines the kernel.
    """
    python = [f for f in (kernel.inputs, kernel.grid, kernel.reference) if isinstance(f, FunctionType)]
    functions = [*_jit_functions(kernel.function), *python]
    files = {home.resolve(), *(Path(function.__code__.co_filename).resolve() for function in functions)}
    meanings = sorted(meaning(file.read_text(encoding="utf-8")) for file in files)
    digest = hashlib.sha256("\n".join(meanings).encode()).hexdigest()
    return f"{home.name} {digest[:DIGITS]}"


def meaning(text: str) -> str:
    """Return what of a module's text says what it defines: its syntax tree without the part for scripts."""
    tree = ast.parse(text)
    tree.body = [statement for statement in tree.body if not _is_for_scripts(statement)]
    return ast.dump(tree)


def _is_for_scripts(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in (
        "__name__ == '__main__'",
        "'__main__' == __name__",
    )


def _jit_functions(first: Any) -> Iterator[FunctionType]:
    """Find the Python functions of a jit function and of those that it calls, by the names in their code."""
    seen: set[int] = set()
    waiting = [first]
    while waiting:
        jit = waiting.pop()
        function = jit.fn
        if id(jit) in seen or function.__module__.startswith(NOT_THE_USERS):
            continue
        seen.add(id(jit))
        yield function
        names = function.__code__.co_names
        found = [function.__globals__[name] for name in names if name in function.__globals__]
        modules = [value for value in found if isinstance(value, ModuleType)]
        found += [getattr(module, name) for module in modules for name in names if hasattr(module, name)]
        waiting += [value for value in found if isinstance(getattr(value, "fn", None), FunctionType)]
