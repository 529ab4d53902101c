"""The tests of the documentation notice what they are there to notice."""

from pathlib import Path

import pytest
from commands import Command, align, commands, parse, renewed, run, simple_commands, unknown_options, untold_need
from helpers import ROOT
from pages import Block, anchors, blocks


def block(text: str, language: str = "console") -> Block:
    return Block(ROOT / "README.md", 1, language, text)


def test_commands_and_their_output() -> None:
    found = list(commands(block("$ echo a \\\n    b\na b\n\n$ true\n$ echo c\nc\n")))
    assert [command.text for command in found] == ["echo a \\\n    b", "true", "echo c"]
    assert [command.expected for command in found] == [("a b", ""), (), ("c",)]
    assert [command.line for command in found] == [3, 6, 7]


@pytest.mark.parametrize(
    ("expected", "output", "alike"),
    [
        (["a  3.5 us", "", "b"], ["a 12 us", "b", ""], True),
        (["a 3 us"], ["a 3 ms"], False),
        (["a"], ["a", "b"], False),
        (["a", "b"], ["a"], False),
        (["a", "b"], ["a", "progress 1/2 studies", "b"], True),
        (["a", "…"], ["a", "b", "c"], True),
        (["…", "c"], ["a", "b", "c"], True),
        (["…", "c", "…"], ["a", "b"], False),
        (["took … s, all"], ["took 3.2 s, all"], True),
        (["took … s, all"], ["took 3.2 s"], False),
        (["x m16 n32 3"], ["x same 4"], True),
        (["x m16 n32 3"], ["x other 4"], False),
        ([], ["a"], False),
    ],
)
def test_output_is_compared(expected: list[str], output: list[str], alike: bool) -> None:
    assert (align(expected, output) is not None) is alike


def test_output_is_renewed() -> None:
    assert renewed(["…", "b 1 …", "", "c 2"], ["a", "b 5 z", "c 6  "]) == ["…", "b 1 …", "", "c 6"]
    assert renewed(["stale"], ["", "a", "", "", "b "]) == ["a", "", "b"]


def test_needs_are_told_by_commands() -> None:
    assert untold_need("bo-tune tune study.toml") == "gpu"
    assert untold_need("FOLDER=x vllm serve m") == "vllm"
    assert untold_need("bo-tune tune --device replay:here") is None
    assert untold_need("bo-tune show | grep x && echo bo-tune tune") is None


def test_what_cannot_run_is_parsed(tmp_path: Path) -> None:
    parse("make demo  # words\nbo-tune tune study.toml --gpus all --out x", tmp_path)
    with pytest.raises(Exception, match="No such option"):
        parse("bo-tune tune --gpu-count 3", tmp_path)
    with pytest.raises(Exception, match="non-zero exit status"):
        parse("make nothing-of-the-kind", tmp_path)
    with pytest.raises(Exception, match=r"studies/none\.toml"):
        parse("bo-tune tune studies/none.toml", tmp_path)


def test_options_in_text_are_looked_up() -> None:
    assert list(simple_commands("A=1 bo-tune show --json x | tail -n 1 # all")) == [
        ["bo-tune", "show", "--json", "x"],
        ["tail", "-n", "1"],
    ]
    assert unknown_options(["bo-tune", "check", "DIR", "--model", "…", "--no-stop"]) == ["--no-stop"]
    assert unknown_options(["bo-tune", "tunes"]) == ["tunes"]


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run(Command("bo-tune show --storage sqlite:///none.db"), tmp_path)
    assert (code, output) == (2, "bo-tune: sqlite:///none.db: no such database\n")
    assert run(Command("echo a | cat; exit 3"), tmp_path) == (3, "a\n")


def test_pages_are_parsed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One, two\n\n<!-- needs: gpu --> <!-- exit: 1 -->\n```console\n$ a\n```\n\n## One, two\n\n"
        "- in a list\n\n  ```toml\n  # x/y.toml\n  a = 1\n  ```\n"
    )
    first, second = blocks(page)
    assert (first.language, first.text, dict(first.markers)) == ("console", "$ a\n", {"needs": "gpu", "exit": "1"})
    assert (second.file, second.indent, dict(second.markers)) == ("x/y.toml", "  ", {})
    assert anchors(page) == {"one-two", "one-two-1"}
