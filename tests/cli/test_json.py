"""``--json`` of every command: to a file, to stdout and nothing else there, with the keys that are documented."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Cli, Ran
from reference import generate_cli
from workplace import GRID, RECORDINGS, TUNE, furnish

pytestmark = pytest.mark.slow

COMMANDS: dict[str, tuple[object, ...]] = {
    "studies": ("studies", "llama-3.1-8b"),
    "folders": ("folders", "phi-4"),
    "problems": ("problems", "--model", "Llama-3.1-8B/config.json", "--max-loras", 4, "--rank", 16),
    "tune": (*TUNE, "--budget", 8),
    "grid": GRID,
    "worker": ("worker", "--device", f"replay:{RECORDINGS}"),
    "simulate": ("simulate", "--recordings", RECORDINGS, "--budget", 10, "--sampler", "random"),
    "show": ("show",),
    "report": ("report",),
    "check": ("check", "tuned", "--model", "Llama-3.1-8B/config.json", "--max-loras", 4, "--rank", 16, "--m", 16),
    "compare": ("compare", "tuned", "grid"),
    "diff": ("diff", "tuned", "grid"),
    "export": ("export", "--out", "exported"),
    "import": ("import", "exported", "--storage", "sqlite:///all.db"),
    "write": ("write",),
    "merge": ("merge", "host1/tuned", "host2/tuned"),
}


def strict(text: str) -> Any:
    """Read JSON that any program can read: no NaN, no infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in {text}"))


def fine(ran: Ran, name: str) -> Ran:
    assert ran.code == (1 if name == "check" else 0), ran
    return ran


@pytest.mark.usefixtures("charts_are_empty")
@pytest.mark.parametrize("name", COMMANDS)
def test_to_a_file_and_to_stdout(cli: Cli, name: str) -> None:
    furnish(Path.cwd(), cli)
    words = COMMANDS[name]
    plain = fine(cli(*words, "--json", "new/x.json"), name)
    document = strict(Path("new/x.json").read_text())
    assert plain.err == ""
    assert plain.out
    assert document["command"] == name
    assert set(document) == {"command", "version", *generate_cli.JSON[name]}
    ran = fine(cli(*words, "--json", "-"), name)
    again = strict(ran.out)
    assert set(again) == set(document)
    assert "│" not in ran.err
    quiet = fine(cli(*words, "--json", "-", "--quiet"), name)
    assert set(strict(quiet.out)) == set(document)
    assert bool(quiet.err) == (name == "check")  # whose faults are what went wrong
    silent = fine(cli(*words, "-q"), name)
    assert (silent.out, silent.err) == ("", quiet.err)


def test_every_command_has_it() -> None:
    names = set(generate_cli.commands())
    assert names == set(generate_cli.JSON) == set(COMMANDS) | {"compile", "delete", "doctor", "step", "warm"}
    for command in generate_cli.commands().values():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--quiet", "-q"} <= options


STUDY_KEYS = {
    "study", "kernel", "problem", "gpu", "kernel_source", "toolchain", "search", "exhaustive", "set_aside", "finished",
    "best_us", "default_us", "config", "certificate", "costs", "disturbed",
    "ended", "layers",
}  # fmt: skip


def test_studies_have_the_same_keys_everywhere(cli: Cli) -> None:
    furnish(Path.cwd(), cli)
    tuned = strict(cli(*TUNE, "--budget", 8, "--json", "-").out)["studies"]
    shown = strict(cli("show", "--json", "-").out)["studies"]
    assert all(set(study) == STUDY_KEYS for study in tuned)
    assert all(set(study) == {*STUDY_KEYS, "states", "reasons", "excluded", "holder"} for study in shown)
    by_name = {study["study"]: study for study in shown}
    assert [{key: by_name[study["study"]][key] for key in STUDY_KEYS} for study in tuned] == tuned
    text = generate_cli.JSON["tune"]["studies"]
    assert set(text.split(", ")) == STUDY_KEYS


def test_a_session_s_figures(cli: Cli) -> None:
    document = strict((furnish(Path.cwd(), cli) and cli(*TUNE, "--storage", "memory", "--json", "-")).out)
    session = document["session"]
    assert session["studies"] == session["studies_done"] == len(document["studies"]) == 2
    assert session["trials"] == sum(study["costs"]["configs"] for study in document["studies"])
    assert all(Path(path).exists() for path in document["written"])


def test_a_file_that_cannot_be_written_is_refused_before_the_work(cli: Cli) -> None:
    furnish(Path.cwd(), cli)
    Path("occupied").touch()
    before = Path("bo_tune.db").stat().st_mtime_ns
    error = cli(*TUNE, "--json", "occupied/x.json").error
    assert error.startswith("occupied/x.json: cannot be written")
    assert Path("bo_tune.db").stat().st_mtime_ns == before
