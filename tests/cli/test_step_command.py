"""``bo-tune step``: what it refuses before a GPU is asked for."""

import pytest
from helpers import BUNDLED, ROOT, Cli

LLAMA = ("--model", ROOT / "studies" / "models" / "llama-3.1-8b", "--max-loras", 4, "--rank", 16)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--model: name a config.json"),
        ((*LLAMA[:4],), "--rank: needed with --model"),
        ((*LLAMA, "--rank", "8"), "one value each"),
        ((*LLAMA, "--m", "0"), "--m: expected integers from 1"),
        ((*LLAMA, "--device", f"replay:{BUNDLED}"), "a step is timed on a GPU"),
        ((*LLAMA, "--device", "tpu"), "--device: expected cuda"),
        ((*LLAMA, "--streams", "three"), "--streams"),
        ((*LLAMA, "--tuned", "nowhere"), "nowhere: No such file or directory"),
        ((*LLAMA, "--tuned", BUNDLED), "no tuned JSON"),
        (("--model", ROOT / "studies" / "models" / "mixtral-8x7b", *LLAMA[2:]), "this one has experts"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_a_line(cli: Cli, arguments: tuple[object, ...], said: str) -> None:
    assert said in cli("step", *arguments).error
