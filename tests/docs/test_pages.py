"""Every command and snippet of the documentation does what its page says.

The blocks of a page are run in order in a folder of their own that has the repository's ``studies`` and ``examples``.
``pytest tests/docs/test_pages.py --update-docs`` writes what the commands print today into the pages.
"""

import ast
import json
import re
import shutil
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from commands import align, commands, parse, renewed, run, simple_commands, unknown_options, untold_need
from helpers import ROOT
from pages import LANGUAGES, NEEDS, Block, blocks, inline, pages

from bo_tune.formats.study_file import load_study_file
from bo_tune.formats.study_schema import StudyTables

pytestmark = pytest.mark.slow

NEEDED = ("studies", "examples", "benchmarks/results")
"""Folders that commands of the pages read."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder a page's commands run in."""
    for needed in NEEDED:
        if (ROOT / needed).is_dir():
            shutil.copytree(ROOT / needed, tmp_path / needed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_blocks_do_what_the_page_says(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    update = request.config.getoption("--update-docs", default=False)
    shown: dict[int, tuple[int, list[str]]] = {}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page)):
        assert block.language in LANGUAGES, block.place
        assert set(block.markers) <= {"needs", "exit", "file", "says"}, block.place
        assert block.markers.get("needs", "gpu") in NEEDS, block.place
        if block.language in ("console", "bash"):
            shown |= check_commands(block, folder, update=update)
        elif block.language == "python":
            check_python(block, folder / f"block_{number}.py", namespace)
        elif block.language == "toml":
            check_toml(block, folder)
        elif block.language == "yaml":
            assert block.file, block.place
            assert block.text in (ROOT / block.file).read_text(), block.place
        elif block.language == "json":
            json.loads(block.text)
        else:
            check_lines(block)
        if block.file and block.language not in ("python", "yaml"):
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)
    if update:
        lines = page.read_text().splitlines()
        for start, (count, new) in sorted(shown.items(), reverse=True):
            lines[start : start + count] = new
        page.write_text("\n".join(lines) + "\n")


def check_commands(block: Block, folder: Path, *, update: bool) -> dict[int, tuple[int, list[str]]]:
    """Run the commands of a block, or parse them where they cannot run; returns what the page should show of each."""
    shown = {}
    every = list(commands(block))
    for command in every:
        if block.markers.get("needs") or untold_need(command.text):
            parse(command.text, folder)
            continue
        code, output = run(command, folder)
        expected = int(block.markers.get("exit", 0)) if command is every[-1] else 0
        assert code == expected, f"{block.place}: {command.text}\n{output}"
        lines = output.splitlines()
        if command.expected and update:
            new = [block.indent + line if line else line for line in renewed(command.expected, lines)]
            shown[command.line] = len(command.expected), new
        elif command.expected:
            assert align(command.expected, lines) is not None, f"{block.place}: {command.text}\n{output}"
    return shown


def check_python(block: Block, file: Path, namespace: dict[str, Any]) -> None:
    """Run a snippet after those before it; where it cannot run, see that it compiles and what it imports exists."""
    if block.file and (ROOT / block.file).is_file():
        assert block.text.partition("\n")[2].strip() in (ROOT / block.file).read_text(), block.place
    file.write_text(block.text)
    code = compile(block.text, str(file), "exec")
    if not block.markers.get("needs"):
        exec(code, namespace)
        return
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bo_tune":
            module = import_module(node.module)
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], block.place


def check_toml(block: Block, folder: Path) -> None:
    """Check a study file, or a part of one."""
    tables = tomllib.loads(block.text)
    if not {"model", "problem"} & set(tables):
        StudyTables.model_validate(tables)
        return
    file = folder / (block.file or "studies/block.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text)
    load_study_file(file)


def check_lines(block: Block) -> None:
    """Check the commands among lines that are not run."""
    for line in block.text.splitlines():
        if re.match(r"bo-tune [a-z]", line):
            for words in simple_commands(line):
                assert not unknown_options(words), f"{block.place}: {line}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_commands_in_the_text_exist(page: Path) -> None:
    for token in inline(page, "code_inline"):
        if token.content.startswith("bo-tune "):
            assert not unknown_options(token.content.split()), f"{page.name}: {token.content}"
