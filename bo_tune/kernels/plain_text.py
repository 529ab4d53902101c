"""Some of an engine's functions without the modules that define them.

Many of them stand among modules that take seconds to import, and want the very torch that the engine was built for.
Their text alone is run here, in a namespace that answers for the GPU in question.
"""

import __future__

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import CodeType


def files_of(modules: Sequence[str], package: str = "vllm") -> list[Path | None]:
    """Return where files of an installed engine are, by their paths below its package; None for one that is not."""
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    return [next((folder / name for folder in folders if (folder / name).is_file()), None) for name in modules]


@lru_cache(maxsize=8)
def code_of(files: Sequence[Path], asked: str, *, is_plain: bool = True) -> CodeType:
    """Return the code that defines a function, and what it calls of these files.

    Args:
        files: of equal names the last one's counts; tracebacks name the first.
        is_plain: whether decorators and the names of types are left out, so that nothing is needed for them.
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
    """Return the functions that a module defines, by name: of those under a condition what is defined where it holds,
    which is how engines write what the versions of Triton in use have."""
    found: dict[str, ast.FunctionDef] = {}
    for node in nodes:
        found |= _functions(node.body) if isinstance(node, ast.If) else {}
        found |= {node.name: node} if isinstance(node, ast.FunctionDef) else {}
    return found


def _reached(defined: Mapping[str, ast.FunctionDef], asked: str) -> list[ast.FunctionDef]:
    """Return the function that is asked, and those of these that it calls or that they call."""
    reached: dict[str, ast.FunctionDef] = {}
    names = [asked]
    while names:
        name = names.pop()
        if name in defined and name not in reached:
            reached[name] = defined[name]
            names += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return list(reached.values())
