"""``--lookups``: what a running engine looked up, tuned, listed and checked through the real command line."""

import json
from pathlib import Path

import pytest
from helpers import EXPAND_TABLE, H100, ROOT, SHRINK_TABLE, Cli
from observed_engine import expand, layer, shrink, steps, written

O_PROJ = layer("model.layers.*.self_attn.o_proj", [[4, 1, 16, 4096]], [[4, 1, 4096, 16]])
REPLAY = ("--device", f"replay:{ROOT / 'studies' / 'recordings'}", "--storage", "memory", "--budget", 8)


@pytest.fixture
def lookups(tmp_path: Path) -> Path:
    """The name that two processes of an engine were told."""
    seen = [O_PROJ, *(line for m in (8, 16) for line in (shrink(m), expand(m, 4096)))]
    for process in (7, 8):
        written(tmp_path / f"l.{process}.jsonl", *seen, steps(13, 16, 13, 4, count=450), gpu=H100.name)
    written(tmp_path / "l.9.jsonl", *seen, steps(8, 8, 8, 4, count=100), gpu=H100.name)
    return tmp_path / "l.jsonl"


def test_what_an_engine_looked_up_is_tuned_and_found(lookups: Path, tmp_path: Path, cli: Cli) -> None:
    out, result = tmp_path / "tuned", tmp_path / "result.json"
    ran = cli("tune", "--lookups", lookups, "--m", 16, *REPLAY, "--out", out, "--json", result)
    assert (ran.code, ran.err) == (0, ""), ran
    document = json.loads(result.read_text())
    assert {study["problem"] for study in document["studies"]} == {
        "L4.s1.m16.k4096.n16.bfloat16", "L4.s1.m16.k16.n4096.bfloat16",
    }  # fmt: skip
    times = {study["kernel"]: study for study in document["studies"]}
    observed = document["observed"]
    assert observed["steps"] == 1000
    # Of the steps 900 have the key of their own, and the kernels of 100 smaller ones move less.
    assert 0.85 < observed["at_keys"] < 0.95
    assert observed["at_keys"] + observed["near_keys"] == pytest.approx(1)
    assert observed["default_us"] == pytest.approx(32 * sum(one["default_us"] for one in times.values()), rel=0.02)
    assert observed["tuned_us"] < observed["default_us"]
    assert "in the 1,000 observed steps" in ran.out
    assert (out / SHRINK_TABLE).exists()
    assert (out / EXPAND_TABLE).exists()

    checked = cli("check", out, "--lookups", lookups, "--json", result)
    assert (checked.code, checked.err) == (0, ""), checked
    found = json.loads(result.read_text())
    assert found["counts"] == {"exact": 2, "nearest m": 2, "fault": 0}
    assert all(one["layers"] == ["o_proj"] for one in found["lookups"])

    written(tmp_path / "l.10.jsonl", shrink(16, 14336))
    missed = cli("check", out, "--lookups", lookups)
    assert missed.code == 1
    assert "no entry for k 14336, so k 4096 is used" in missed.out


def test_keys_are_placed_where_the_steps_are(lookups: Path, cli: Cli) -> None:
    ran = cli("problems", "--lookups", lookups, "--json", "-")
    problems = json.loads(ran.out)["problems"]
    assert {(one["kernel"], one["m"]) for one in problems} == {
        (kernel, m) for kernel in ("lora_shrink", "lora_expand") for m in (8, 16)
    }
    assert {tuple(one["layers"]) for one in problems} == {("o_proj",)}


def test_rare_sizes_get_a_smaller_budget_and_a_second_run_keeps_all(tmp_path: Path, cli: Cli) -> None:
    seen = [line for m in (16, 256, 1024) for line in (shrink(m), expand(m, 4096))]
    load = [steps(16, 16, 16, 4, count=10**5), steps(256, 256, 256, 4, count=3000)]
    lookups = written(tmp_path / "l.jsonl", *seen, *load, gpu="NVIDIA H200")
    recorded = f"replay:{ROOT / 'studies' / 'recordings' / 'h200'}"
    where = ("--device", recorded, "--storage", f"sqlite:///{tmp_path}/s.db", "--budget", 12, "--no-stop")
    tune = ("tune", "--lookups", lookups, *where, "--kernel", "lora_shrink", "--out", tmp_path / "out", "--json", "-")
    first, second = (json.loads(cli(*tune).out) for _ in range(2))
    launched = {study["problem"]: study["costs"]["launched_configs"] for study in first["studies"]}
    assert launched == {"L4.s1.m16.k4096.n16.bfloat16": 12, "L4.s1.m256.k4096.n16.bfloat16": 6}
    assert [one["kept"] for one in second["reused"]] == [True, True]
    assert second["observed"] == first["observed"]
    assert first["observed"]["at_keys"] + first["observed"]["near_keys"] < 0.7, "expand was not tuned"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model", "x"), "--lookups: this file already has everything that the engine looks up; leave out --model"),
        (("--tp", 2), "leave out --t"),
        (("study.toml",), "leave out study.toml"),
        (("--streams", "two"), "--streams: --lookups already says how the engine runs adapters"),
        (("--m", "x"), "--m: expected integers"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    lookups: Path, cli: Cli, arguments: tuple[str | int, ...], expected: str
) -> None:
    ran = cli("tune", "--lookups", lookups, *arguments, *REPLAY)
    assert (ran.code, ran.out) == (2, "")
    assert expected in ran.err
    assert len(ran.err.splitlines()) == 1


def test_check_takes_the_lookups_own_m_and_step_needs_a_model(lookups: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("check", tmp_path, "--lookups", lookups, "--m", 16)
    assert (ran.code, ran.err.strip()) == (
        2,
        "bo-tune: --m does not work with --lookups, because the lookups have their own m",
    )
    ran = cli("step", "--lookups", lookups, "--m", 16)
    assert (ran.code, ran.out) == (2, "")
    assert "--lookups does not work here; name a model with --model" in ran.err
