"""The last lines of ``tune``: what to do next, in whatever folder."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers import ONE_PROBLEM, ROOT, SHRINK, Cli, sliced, write_all
from reference import generate_cli

from bo_tune.cli.resume import next_lines
from bo_tune.cli.served import Served
from bo_tune.core.choices import LayersFrom, StreamChoice


def understood(command: str, words: list[str]) -> dict[str, Any]:
    """Return what a command makes of words."""
    found = generate_cli.commands()[command]
    values: dict[str, Any] = found.make_context(command, list(words)).params
    return values


@pytest.mark.parametrize(
    "served",
    [
        Served(model="meta-llama/Llama-3.1-8B", tp=2, max_loras=["4,8"], rank=["16"], m=["1,16"]),
        Served(model="a b", max_loras=["4"], adapter=["first", "it's"], target_modules=["q_proj,v_proj"]),
        Served(model="x", fully_sharded=True, expert_parallel=True, dual_stream=True, derive=LayersFrom.ENGINE),
        Served(model="x", max_num_seqs=64, max_num_batched_tokens=4096, num_speculative_tokens=3, tower_connector=True),
        Served(lookups=Path("lookups.jsonl")),
    ],
)
def test_check_reads_what_tune_was_told_of_the_model(served: Served) -> None:
    words = shlex.split(shlex.join(served.words()))
    values = understood("check", ["tuned", *words])
    read = {name: values[name] for name in Served.__slots__ if values[name]}
    told = {name: value for name in Served.__slots__ if (value := getattr(served, name)) and name != "m"}
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in read.items()} == told


def test_two_streams_are_told_by_the_option_that_check_has() -> None:
    assert Served(model="x").words(StreamChoice.TWO)[-1] == "--dual-stream"
    assert Served(model="x", dual_stream=True).words(None).count("--dual-stream") == 1


def test_paths_are_absolute_and_ids_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    assert Served(model="model", adapter=["other/id"]).words() == [
        *("--model", str(tmp_path / "model")),
        *("--adapter", "other/id"),
    ]


def test_a_study_s_folder_is_checked_from_anywhere(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grids = tmp_path / "grids"
    grids.mkdir()
    write_all(grids, sliced(SHRINK))
    Path("my study.toml").write_text(ONE_PROBLEM)
    ran = cli("tune", "my study.toml", "--device", f"replay:{grids}", "--storage", "memory", "--out", "its folder")
    assert (ran.code, ran.err) == (0, "")
    *_, heading, check, export = ran.out.splitlines()
    assert heading == "next steps, from any folder:"
    folder = Path("its folder").absolute()
    assert export == f"  export VLLM_TUNED_CONFIG_FOLDER='{folder}'"
    program, *words = shlex.split(check)
    assert program == "bo-tune"
    monkeypatch.chdir(ROOT)
    ran = cli(*words)
    assert (ran.code, ran.err) == (0, "")
    assert "1 lookups: 1 find their own entry" in ran.out


def test_where_nothing_names_a_model_its_place_is_shown(cli: Cli, tmp_path: Path) -> None:
    write_all(tmp_path, sliced(SHRINK))
    out = cli("tune", "--device", f"replay:{tmp_path}", "--storage", "memory").out
    assert f"  bo-tune check {Path('tuned').absolute()} --model MODEL --max-loras N --max-lora-rank R\n" in out
    assert "bo-tune step" not in out


def test_a_grid_which_is_to_be_compared_has_none(cli: Cli, tmp_path: Path) -> None:
    write_all(tmp_path, sliced(SHRINK))
    assert "next" not in cli("grid", "--device", f"replay:{tmp_path}", "--storage", "memory").out


@pytest.mark.parametrize("quiet", [("-q",), ("--json", "-")])
def test_programs_are_not_told(cli: Cli, tmp_path: Path, quiet: tuple[str, ...]) -> None:
    write_all(tmp_path, sliced(SHRINK))
    assert "export" not in cli("tune", "--device", f"replay:{tmp_path}", "--storage", "memory", *quiet).out


def test_a_step_is_timed_where_that_can_be() -> None:
    named = ["--model", "x", "--max-loras", "4", "--rank", "16"]
    lines = next_lines(Path("tuned"), ["VLLM_TUNED_CONFIG_FOLDER"], named, is_timed=True)
    values = understood("step", shlex.split(lines[2])[2:])
    assert (values["model"], values["tuned"]) == ("x", Path("tuned").absolute())


def test_a_step_of_a_study_file_without_a_model_is_refused(cli: Cli) -> None:
    Path("x.toml").write_text(ONE_PROBLEM)
    assert cli("step", "x.toml").error.startswith("x.toml: bo-tune step needs a model")
