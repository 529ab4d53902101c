"""``bo-tune step``: what it shows, and what it refuses before a GPU is asked for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import BUNDLED, ROOT, Cli, FakeDevice

from bo_tune.kernels.registry import kernel_spec
from bo_tune.session.workers.measuring import Measured

LLAMA = ("--model", ROOT / "studies" / "models" / "llama-3.1-8b", "--max-loras", 4, "--rank", 16)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--model: expected a config.json"),
        ((*LLAMA[:4],), "--max-lora-rank is needed with --model"),
        ((*LLAMA, "--rank", "8"), "one value of each"),
        ((*LLAMA, "--m", "0"), "--m: expected integers from 1"),
        ((*LLAMA, "--device", f"replay:{BUNDLED}"), "steps can only be timed on a GPU"),
        ((*LLAMA, "--device", "tpu"), "--device: expected cuda"),
        ((*LLAMA, "--streams", "three"), "--streams"),
        ((*LLAMA, "--tuned", "nowhere"), "nowhere: No such file or directory"),
        ((*LLAMA, "--tuned", BUNDLED), "no tuned JSON"),
        (
            ("--model", ROOT / "studies" / "models" / "gemma-2-9b", "--target-modules", "qkv_proj", *LLAMA[2:]),
            "each with adapters",
        ),
    ],
)
def test_what_cannot_be_timed_is_refused_in_a_line(cli: Cli, arguments: tuple[object, ...], said: str) -> None:
    assert said in cli("step", *arguments).error


STUDY = ("step", ROOT / "studies" / "llama-3.1-8b.toml")


@pytest.mark.parametrize(
    ("arguments", "ways"), [((), ["one", "two"]), (("--streams", "two"), ["two"]), (("--dual-stream",), ["two"])]
)
@pytest.mark.parametrize("asked", [("step", *LLAMA), STUDY], ids=["options", "study file"])
def test_each_way_is_a_table_and_all_of_it_json(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, asked: tuple[object, ...], arguments: tuple[str, ...], ways: list[str]
) -> None:
    @contextmanager
    def opened_one(measured: Measured) -> Iterator[FakeDevice]:
        added = 1.0 if measured.conditions.dual_stream else 2.0
        yield FakeDevice(lambda config: 5.0, kernel_spec("lora_shrink").search_space, in_place=lambda config: added)

    monkeypatch.setattr("bo_tune.session.workers.measuring.opened_one", opened_one)
    ran = cli(*asked, "--m", "1,16", *arguments, "--json", "step.json")
    assert (ran.code, ran.err) == (0, "")
    assert [f"{way} stream" in ran.out for way in ("one", "two")] == [way in ways for way in ("one", "two")]
    assert ("faster at every measured m" in ran.out) == (len(ways) == 2)
    document = json.loads(Path("step.json").read_text())
    assert set(document) >= {"model", "gpu", "layers", "tuned", "lacking", "steps"}
    assert [(step["m"], step["streams"]) for step in document["steps"]] == [(m, way) for m in (1, 16) for way in ways]
    assert document["steps"][0]["untuned_us"] == 80.0 + (16.0 if ways[0] == "one" else 8.0)
