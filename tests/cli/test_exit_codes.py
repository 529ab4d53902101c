"""Exit codes of every command: 1 where something failed, 2 for bad input in one line, 130 when interrupted."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import BUNDLED, EXPAND, SHRINK, Cli, bundled, command, run_command, sliced, sqlite_url, write_all
from reference import generate_cli
from terminal import terminal
from workplace import furnish

from bo_tune.cli import app
from bo_tune.cli import main as cli_main
from bo_tune.cli.output import Output
from bo_tune.processes import exit_codes, streams

NAMES = list(generate_cli.commands())

NEEDED = {
    "compare": ("a", "b"), "simulate": ("--recordings", "x"), "check": ("x",), "import": ("x",), "merge": ("x",),
    "delete": ("x",), "diff": ("a", "b"), "warm": ("x",),
}  # fmt: skip
"""Arguments without which a command is not understood."""


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_one_line_and_2(cli: Cli, name: str) -> None:
    error = cli(name, "--no-such-option").error
    assert error.startswith("no such option: --no-such-option")
    assert error.endswith(f"see bo-tune {name} --help")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("tune --budget 0", "--budget: "),
        ("tune --budget x", "; see bo-tune tune --help"),
        ("tune --timing hot", "--timing: 'hot' is not one of 'cold', 'warm', 'graph'; see bo-tune tune --help"),
        ("check", "missing argument 'DIR'; see bo-tune check --help"),
        ("simulate", "missing option '--recordings'; see bo-tune simulate --help"),
        ("nonsense", "no such command 'nonsense'; see bo-tune --help"),
        ("tune a b", "got unexpected extra argument"),
        ("--nonsense", "no such option: --nonsense"),
        ("show --storage", "option '--storage' requires an argument"),
    ],
)
def test_what_is_wrong_is_said_with_where_to_read_on(cli: Cli, arguments: str, expected: str) -> None:
    assert expected in cli(*arguments.split()).error


@pytest.mark.parametrize("name", NAMES)
def test_an_interruption_is_130(cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command was doing; what sessions say and keep is in ``test_live_console`` and ``test_kill``."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Output, "__init__", interrupt)
    ran = cli(name, *NEEDED.get(name, ()))
    assert (ran.code, ran.out, ran.err) == (130, "", "")


def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    with terminal(command("show"), cwd=tmp_path, start=subprocess.Popen) as shown:
        shown.read(0.1)
        shown.type("\x03")
        assert shown.finish() in (exit_codes.INTERRUPTED, -2)  # -2: before Python runs anything of ours
        assert "bo_tune/cli" not in shown.text


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two problems: of the first nothing can be measured."""
    (tmp_path / "recordings").mkdir()
    whole = sliced(SHRINK)
    invalid = next(entry for entry in bundled(SHRINK).entries.values() if entry.reason is not None)
    nothing = replace(whole, default_time_us=None, entries=dict.fromkeys(whole.entries, invalid))
    return write_all(tmp_path / "recordings", nothing, sliced(EXPAND))


@pytest.mark.parametrize("name", ["tune", "grid"])
def test_a_study_that_cannot_be_measured_is_1_and_the_others_are_done(cli: Cli, recordings: Path, name: str) -> None:
    ran = cli(name, "--device", f"replay:{recordings}", "--storage", "memory", "--json", "x.json")
    assert (ran.code, ran.err) == (1, "")
    assert "nothing could be measured" in ran.out
    document = json.loads(Path("x.json").read_text())
    assert {study["kernel"]: study["finished"] for study in document["studies"]} == {
        "lora_shrink": False,
        "lora_expand": True,
    }
    assert len(document["written"]) == 1


def test_faults_are_1(cli: Cli) -> None:
    furnish(Path.cwd(), cli)
    ran = cli("check", "tuned", "--model", "Llama-3.1-8B/config.json", "--max-loras", 4, "--rank", 16)
    assert (ran.code, ran.err) == (1, "")
    assert "faults" in ran.out


def test_the_codes_are_those_of_the_help_text(cli: Cli) -> None:
    lines = [line.strip() for line in cli("--help").out.splitlines()]
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code}  {meaning}" in lines


@pytest.mark.slow
def test_no_gpu_is_2(tmp_path: Path) -> None:
    study = BUNDLED.parent / "llama-3.1-8b.toml"
    ran = run_command("tune", study, "--storage", sqlite_url(tmp_path / "x.db"), "--gpus", "7", cwd=tmp_path)
    assert ran.error


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        raise MemoryError

    monkeypatch.setattr(app, "main", run)
    monkeypatch.setattr(streams, "make_streams_outlive_readers", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli_main()
    assert ended.value.code == exit_codes.BAD_INPUT
    assert capsys.readouterr().err == "bo-tune: out of memory; check whether a limit is set (ulimit -v)\n"
