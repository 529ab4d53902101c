"""Every message that the page on troubleshooting quotes is one that the program, or vLLM, prints."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT
from pages import Block, blocks
from vllm_wheel import vllm_folder

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = [block for block in blocks(PAGE) if block.language == "text"]
FEWEST_LETTERS = 8
"""Of a template that is to be recognised in a message."""


def templates(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield each text of a package's code as a pattern, with how many letters of it are fixed."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts: list[ast.expr] = [node]
            elif isinstance(node, ast.JoinedStr):
                parts = node.values
            else:
                continue
            fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            letters = sum(len(str(text)) for text in fixed if text is not None)
            if letters >= FEWEST_LETTERS:
                yield "".join(".+" if text is None else re.escape(str(text)) for text in fixed), letters


@cache
def own() -> tuple[tuple[str, int], ...]:
    return tuple(templates(ROOT / "bo_tune"))


@cache
def vllm_own() -> tuple[tuple[str, int], ...]:
    return tuple(templates(vllm_folder() / "vllm" / "lora" / "ops" / "triton_ops"))


def quotes() -> Iterator[tuple[Block, str]]:
    for block in QUOTED:
        for line in block.text.splitlines():
            yield block, line.removeprefix("bo-tune: ")


def is_said(line: str, known: tuple[tuple[str, int], ...]) -> bool:
    """Say whether fixed texts of the code make up most of what a line quotes."""
    quoted = len(line.replace("…", "").replace(" ", ""))
    return any(letters >= quoted // 2 and re.search(pattern, line, re.DOTALL) for pattern, letters in known)


@pytest.mark.parametrize(("block", "line"), list(quotes()), ids=lambda value: value if isinstance(value, str) else "")
def test_quoted_messages_exist(block: Block, line: str) -> None:
    if block.markers.get("says") == "vllm":
        assert is_said(line, vllm_own())
    else:
        assert is_said(line, own())


def test_what_nobody_says_is_told() -> None:
    assert not is_said("the GPU has left the building: …", own())
    assert not is_said("…: SQLite is fine on a network file system (…)", own())
