"""Commands say whose kernels entries were tuned with, and keep an engine's from being overwritten by others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, SHRINK, SHRINK_TABLE, Cli, FakeDevice, contents, sliced, write_all

from bo_tune.cli.arguments import Arguments
from bo_tune.cli.tuning import _fallback_warnings
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import SearchSpace
from bo_tune.engines.folder import read_provenance
from bo_tune.measure.devices import job_of
from bo_tune.session.session import SessionSettings
from bo_tune.session.workers.measuring import Measured

OWN = "bo_tune 25606b8fe2"
TUNE = ("--sampler", "random", "--budget", 2, "--storage", "memory")


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """Recordings of vLLM's kernels."""
    return write_all(tmp_path / "vllm", sliced(SHRINK))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Recordings of the project's own kernels: another problem of the same file, and the same."""
    return write_all(tmp_path / "own", *(replace(sliced(SHRINK, m=m), kernel_source=OWN) for m in (16, 32)))


def tune(cli: Cli, folder: Path, out: Path, *words: object) -> object:
    return cli("tune", "--device", f"replay:{folder}", "--out", out, *TUNE, *words)


def sources(out: Path) -> list[str]:
    return [origin.kernel_source for origin in read_provenance(out / SHRINK_TABLE).values()]


def test_own_kernels_never_take_the_place_of_an_engines_unasked(
    cli: Cli, vllm: Path, own: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert tune(cli, vllm, out).err == ""
    before = contents(out)
    error = tune(cli, own, out).error
    assert error.startswith(
        f"{out / SHRINK_TABLE} has entries of vllm 0.33.0; do not mix them with entries of bo_tune's own"
    )
    assert contents(out) == before
    asked = tune(cli, own, out, "--kernels", "builtin")
    assert asked.code == 0
    assert asked.err.startswith(f"warning: {out / SHRINK_TABLE} has entries of vllm 0.33.0")
    assert asked.err.count("\n") == 1
    assert sources(out) == [OWN, OWN]


def test_an_engines_beside_own_ones_come_with_a_warning(cli: Cli, vllm: Path, own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert tune(cli, own, out).err == "", "nothing else is there"
    ran = tune(cli, vllm, out)
    assert ran.code == 0
    assert ran.err.startswith(f"warning: {out / SHRINK_TABLE}: 2 entries were tuned with bo_tune's own kernels")
    assert sorted(sources(out)) == [OWN, "vllm 0.33.0"]
    assert tune(cli, vllm, out, "--quiet").err == ""


def test_merge_keeps_an_engines_entry_and_names_the_others(cli: Cli, vllm: Path, own: Path, tmp_path: Path) -> None:
    first, second, out = tmp_path / "1", tmp_path / "2", tmp_path / "merged"
    tune(cli, vllm, first)
    tune(cli, own, second)  # later, and of the same problem too
    for order in ((first, second), (second, first)):
        ran = cli("merge", *order, "--out", out)
        assert (ran.code, sources(out)) == (0, ["vllm 0.33.0", OWN])
        assert ran.err == (
            f"warning: {SHRINK_TABLE}: 1 entry was tuned with bo_tune's own kernels, which no engine runs, and 1 of "
            "vllm 0.33.0\n"
        )


def test_check_says_whose_kernels_were_tuned(cli: Cli, own: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", ROOT / "studies" / "models" / "llama-3.1-8b"
    tune(cli, own, out)
    ran = cli("check", out, "--model", model, "--max-loras", 4, "--rank", 16, "--json", tmp_path / "x.json")
    assert "tuned with bo_tune's own kernels\n" in ran.out
    assert f"{SHRINK_TABLE}: 2 entries were tuned with bo_tune's own kernels, which no engine runs\n" in ran.out
    assert json.loads((tmp_path / "x.json").read_text())["kernels"] == {SHRINK_TABLE: {OWN: 2}}


class Other(FakeDevice):
    """Measures code of a certain source."""

    source = OWN

    def kernel_source(self, kernel: str) -> str:
        return self.source


@pytest.mark.parametrize(
    ("source", "choice", "device", "warned"),
    [
        (OWN, "auto", "cuda", True),
        (OWN, "builtin", "cuda", False),
        ("vllm 0.33.0", "auto", "cuda", False),
        (OWN, "auto", "replay:somewhere", False),  # of what was recorded nothing was chosen
    ],
)
def test_a_fallback_is_warned_of(source: str, choice: str, device: str, warned: bool, tmp_path: Path) -> None:
    other = Other(times=lambda config: 1.0, space=SearchSpace.of({"block_m": (16,)}))
    other.source = source
    measured = Measured(device, choice, Conditions(), None)
    arguments = Arguments(None, (), measured, "memory", tmp_path, SessionSettings(), verbose=False)
    lines = _fallback_warnings([job_of(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16), other)], arguments)
    assert [("bo_tune tunes its own kernels instead" in line) for line in lines] == [True] * warned
