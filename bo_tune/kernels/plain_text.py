"""Run single functions of an engine without importing their modules.

Many of these modules take seconds to import, and need the exact torch that the engine was built for. So only the text
of the functions is run, in a namespace that answers for the GPU in question.
"""

import __future__

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import CodeType


def files_of(modules: Sequence[str], package: str = "vllm") -> list[Path | None]:
    """Return the files of an installed engine, by their paths below its package; None for each that is missing."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    return [next((folder / name for folder in folders if (folder / name).is_file()), None) for name in modules]


@lru_cache(maxsize=8)
def code_of(files: Sequence[Path], asked: str, *, is_plain: bool = True) -> CodeType:
    """Return the code that defines a function, and the functions of these files that it calls.

    Args:
        files: if several define the same name, the last one counts. Tracebacks name the first.
        is_plain: whether to leave out decorators and types, so that the code needs no names for them.
    """
    defined: dict[str, ast.FunctionDef] = {}
    for file in files:
        defined |= _functions(ast.parse(file.read_text(encoding="utf-8"), str(file)).body)
    wanted = _reached(defined, asked)
    for node in wanted if is_plain else ():
        node.decorator_list = []
    flags = __future__.annotations.compiler_flag if is_plain else 0
    code: CodeType = compile(ast.Module(list(wanted), []), str(files[0]), "exec", flags, dont_inherit=True)
    return code


def _functions(nodes: Sequence[ast.stmt]) -> dict[str, ast.FunctionDef]:
    """Return the functions that a module defines, by name.

    Of functions under a condition, those in its true branch count. Engines put there what the Triton versions in use
    have.
    """
    found: dict[str, ast.FunctionDef] = {}
    for node in nodes:
        found |= _functions(node.body) if isinstance(node, ast.If) else {}
        found |= {node.name: node} if isinstance(node, ast.FunctionDef) else {}
    return found


def _reached(defined: Mapping[str, ast.FunctionDef], asked: str) -> list[ast.FunctionDef]:
    """Return the function asked for, and all functions that it calls, directly or not."""
    reached: dict[str, ast.FunctionDef] = {}
    names = [asked]
    while names:
        name = names.pop()
        if name in defined and name not in reached:
            reached[name] = defined[name]
            names += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return list(reached.values())
