"""Help texts: what every command says of itself, that its examples work, and the page made of it."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Cli
from reference import generate_cli
from workplace import furnish

pytestmark = pytest.mark.slow

COMMANDS = generate_cli.commands()
EXAMPLES = [(name, example) for name, command in COMMANDS.items() for example in generate_cli.examples(command)]

RUNS = {
    "studies": "bo-tune studies",
    "folders": "bo-tune folders",
    "problems": "bo-tune problems studies/llama-3.1-8b.toml",
    "tune": "bo-tune tune --device replay:studies/recordings",
    "grid": "bo-tune grid --device replay:studies/recordings --storage memory",
    "worker": "bo-tune worker --storage sqlite:///bo_tune.db --device replay:studies/recordings",
    "simulate": "bo-tune simulate --recordings studies/recordings --budget 20",
    "show": "bo-tune show --storage sqlite:///bo_tune.db",
    "report": "bo-tune report --storage sqlite:///bo_tune.db --out report.html",
    "check": "bo-tune check tuned --model Llama-3.1-8B/config.json --max-loras 4 --rank 16",
    "compare": "bo-tune compare tuned grid",
    "export": "bo-tune export --storage sqlite:///bo_tune.db --out exported",
    "import": "bo-tune import exported --storage sqlite:///all.db",
    "delete": "bo-tune delete lora_expand k32 --storage sqlite:///bo_tune.db --yes",
    "diff": "bo-tune diff tuned grid",
    "write": "bo-tune write --storage sqlite:///bo_tune.db --out tuned",
    "merge": "bo-tune merge host1/tuned host2/tuned --out merged",
}
"""An example of each command that needs neither a GPU nor minutes; ``compile`` has tests of its own."""


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def parse(command: Any, words: list[str]) -> dict[str, Any]:
    """Return the values of a command line, without running the command."""
    values: dict[str, Any] = command.make_context(command.name, list(words)).params
    return values


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_with_examples(cli: Cli, name: str) -> None:
    ran = cli(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(ran.out.split())
    assert " ".join(COMMANDS[name].help.split())[:60] in text
    examples = generate_cli.examples(COMMANDS[name])
    assert examples
    assert "Examples:" in text
    for example in examples:
        assert example in text.replace("\\ ", "")


def test_many_options_are_grouped(cli: Cli) -> None:
    text = cli("tune", "--help").out
    panels = ["Problem", "Search", "Device", "Database", "Output"]
    places = [text.index(f"─ {panel} ─") for panel in panels]
    assert places == sorted(places)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_examples_are_understood(name: str, example: str, cli: Cli) -> None:
    program, command, *words = shlex.split(example)
    assert (program, command) == ("bo-tune", name)
    assert parse(COMMANDS[name], words)


@pytest.mark.usefixtures("charts_are_empty")
@pytest.mark.parametrize("name", RUNS)
def test_an_example_of_each_command_works(cli: Cli, name: str) -> None:
    example = RUNS[name]
    assert example in generate_cli.examples(COMMANDS[name])
    furnish(Path.cwd(), cli)
    ran = cli(*shlex.split(example)[1:])
    # The tuned folder holds two entries of the model's many: faults are what is to be found.
    assert ran.code == (1 if name == "check" else 0), ran
    assert ran.err == ""
    assert ran.out


def test_every_command_has_an_example_that_is_run() -> None:
    assert set(RUNS) | {"compile", "doctor", "step", "warm"} == set(COMMANDS)


def test_without_arguments_there_is_help(cli: Cli) -> None:
    ran, asked = cli(), cli("--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.strip() == asked.out.strip()
    for name in COMMANDS:
        assert f"│ {name} " in ran.out
    for code in (0, 1, 2, 130):
        assert re.search(rf"^ +{code}  \w", ran.out, re.MULTILINE)


def test_version(cli: Cli) -> None:
    ran = cli("--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("bo-tune ")
    assert ran.out.strip().split()[1][0].isdigit()


def test_the_page_is_what_the_command_line_says() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == generate_cli.page(), "run: make docs"
