"""The syntax tree of a function as text. It leaves out the function's place and layout."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType

DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def source_tree(function: FunctionType) -> str:
    """Return a function's syntax tree as Python text, without comments, layout, docstrings and configs of an autotuner.

    The code object stands in for a function whose text cannot be found (one made by ``exec``).
    """
    node = _node_of(function)
    if node is None:
        return " ".join(_code_words(function.__code__))
    for one in ast.walk(node):
        if isinstance(one, DOCUMENTED) and _is_docstring(one.body[0]):
            one.body = one.body[1:] or [ast.Pass()]
    if isinstance(node, DOCUMENTED):
        node.decorator_list = [one for one in node.decorator_list if not _is_autotuner(one)]
    return ast.unparse(node)


def _is_autotuner(decorator: ast.expr) -> bool:
    """Say whether a decorator lists configs. They are not part of the code that they are chosen for."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) == "autotune"


def _node_of(function: FunctionType) -> ast.AST | None:
    try:
        lines, first = inspect.findsource(function)
    except OSError:
        return None
    if function.__code__.co_name != "<lambda>":
        block = textwrap.dedent("".join(inspect.getblock(lines[first:])))
        return ast.parse(block).body[0]
    line = function.__code__.co_firstlineno
    begun = [n for n in ast.walk(ast.parse("".join(lines))) if isinstance(n, ast.Lambda) and n.lineno == line]
    return min((node for node in begun if _is_code_of(node, function.__code__)), key=_length, default=None)


def _is_code_of(node: ast.Lambda, code: CodeType) -> bool:
    """Say whether code lies within a lambda's body. A line may hold several lambdas."""
    places = [(row, column) for row, _, column, _ in code.co_positions() if row is not None and column is not None]
    body = node.body
    first, last = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    inside = [place for place in places if place != (code.co_firstlineno, 0)]  # (first line, 0): the call itself
    return bool(inside) and all(first <= place <= last for place in inside)


def _length(node: ast.Lambda) -> tuple[int, int]:
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return end[0] - node.lineno, end[1] - node.col_offset


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _code_words(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_words(constant)
        else:
            yield repr(constant)
