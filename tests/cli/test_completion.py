"""TAB: what shells are offered, by typer's protocol and by the shells themselves."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import EXPAND, PATIENCE_S, SHRINK, command, sliced, write_all
from terminal import terminal

from bo_tune.cli import completion
from bo_tune.core.choices import SAMPLERS
from bo_tune.kernels.registry import KERNELS

pytestmark = pytest.mark.slow

PROGRAM = command()[0]
SHELLS = [
    pytest.param(shell, marks=pytest.mark.skipif(shutil.which(shell) is None, reason=f"this machine has no {shell}"))
    for shell in ("bash", "zsh", "fish")
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with study files, recordings, and databases."""
    monkeypatch.chdir(tmp_path)
    for folder in ("studies/recordings", ".hidden", "deep/a/b/c"):
        (tmp_path / folder).mkdir(parents=True)
    write_all(tmp_path / "studies" / "recordings", sliced(SHRINK), sliced(EXPAND))
    for name in ("llama.toml", "studies/qwen.toml", "pyproject.toml", ".hidden/x.toml", "deep/a/b/c/x.toml", "x.db"):
        (tmp_path / name).touch()
    return tmp_path


def offered(words: str, cwd: Path, shell: str = "fish") -> list[str]:
    """Ask by the protocol, as the shell's script does."""
    if shell == "bash":
        typed = words.split(" ")
        question = {"COMP_WORDS": "\n".join(typed), "COMP_CWORD": str(len(typed) - 1)}
    else:
        question = {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [PROGRAM],
        cwd=cwd,
        env={**os.environ, **question, "_BO_TUNE_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_commands_options_and_values(here: Path, shell: str) -> None:
    assert offered("bo-tune gr", here, shell) == ["grid"]
    assert "--max-loras" in offered("bo-tune tune --m", here, shell)
    assert offered("bo-tune tune --kernel lora_", here, shell) == [k for k in KERNELS if k.startswith("lora_")]
    assert offered("bo-tune tune --timing ", here, shell) == ["cold", "warm", "graph"]
    assert offered("bo-tune tune ", here, shell) == ["llama.toml", "studies/qwen.toml"]


def test_zsh_is_offered_the_same(here: Path) -> None:
    (line, *more) = offered("bo-tune tune --kernel lora_", here, "zsh")
    assert line.startswith("_arguments ")
    text = "\n".join([line, *more])
    assert [k for k in KERNELS if f'"{k}"' in text] == [k for k in KERNELS if k.startswith("lora_")]


def test_values(here: Path) -> None:
    assert completion.samplers("g") == [name for name in SAMPLERS if name.startswith("g")]
    assert completion.devices("") == ["cuda", "cuda:0", "cuda:1", "replay:studies/recordings"]
    assert completion.devices("rep") == ["replay:studies/recordings"]
    assert completion.storages("") == ["memory", "sqlite:///x.db"]
    assert completion.study_files("studies/") == ["studies/qwen.toml"]
    assert completion.routings("z") == ["zipf"]
    assert "vllm" in completion.kernel_sources("v")
    assert completion.targets("cuda:9") == ["cuda:90"]


def test_a_folder_that_cannot_be_read_offers_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert completion.devices("replay") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(here: Path, shell: str) -> None:
    """The script of ``--show-completion``, read by an interactive shell in which TAB is pressed."""
    environment = {"PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}", "HOME": str(here), "PS1": "> "}
    start = {
        "bash": ["bash", "--norc", "--noprofile", "-i"],
        "zsh": ["zsh", "-f", "-i"],
        "fish": ["fish", "--no-config", "-i"],
    }[shell]
    script = here / f"completion.{shell}"
    (here / f"show.{shell}").write_text("bo-tune --show-completion\n")
    shown = subprocess.run(
        [shell, f"show.{shell}"],
        cwd=here,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "bo-tune" in shown.stdout, shown
    script.write_text(shown.stdout)
    load = f"source {script.name}"
    with terminal(start, columns=100, rows=24, cwd=here, environment=environment) as typed:
        typed.type(("autoload -U compinit; compinit -D -u; " if shell == "zsh" else "") + f"{load}; echo re''ady\n")
        typed.wait_for(lambda lines: any(line.startswith("ready") for line in lines))
        typed.type("bo-tune tune --kernel lora_s\t")
        typed.wait_for(lambda lines: any("--kernel lora_shrink" in line for line in lines))
        typed.type(" --sampler coordinate-\t")
        typed.wait_for(lambda lines: any("--sampler coordinate-restarts" in line for line in lines))
        typed.type(" studies/q\t")
        typed.wait_for(lambda lines: any("studies/qwen.toml" in line for line in lines))
