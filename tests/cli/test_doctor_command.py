"""``bo-tune doctor`` on a host without a GPU: what it says, how it ends, and that it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Cli, sqlite_url

from bo_tune.analysis import doctor
from bo_tune.analysis.doctor import Finding, Status

FIT = Finding("driver", Status.OK, "NVIDIA 570.1")
WARNED = Finding("idle", Status.WARNING, "not known", "look yourself")
BROKEN = Finding("GPUs", Status.FAILED, "none", "buy one")


@pytest.mark.parametrize(
    ("findings", "code", "last"),
    [
        ([FIT], 0, "fit to tune"),
        ([FIT, WARNED], 0, "fit to tune, with 1 warning"),
        ([FIT, WARNED, BROKEN], 1, "not fit to tune: 1 of 3 checks failed"),
    ],
)
def test_the_exit_code_is_of_what_failed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], code: int, last: str
) -> None:
    monkeypatch.setattr(doctor, "examined", lambda wanted: findings)
    ran = cli("doctor", "--json", "x.json")
    assert (ran.code, ran.err, ran.out.splitlines()[-1]) == (code, "", last)
    document = json.loads(Path("x.json").read_text())
    assert document["healthy"] == (code == 0)
    assert document["checks"] == [finding.to_json() for finding in findings]


def test_what_failed_is_said_quietly_with_how_to_mend_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examined", lambda wanted: [FIT, BROKEN])
    ran = cli("doctor", "-q")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "failed   GPUs: none\n         -> buy one\n"


def test_bad_input_is_one_line(cli: Cli) -> None:
    assert (
        cli("doctor", "--kernels", "mine").error == "--kernels: expected one of auto, vllm, builtin, sglang, got 'mine'"
    )
    assert "--device: expected cuda" in cli("doctor", "--device", "replay:x").error
    assert cli("doctor", "--wait", "0").error.startswith("--wait: ")


def checks(folder: Path, *options: str, **environment: str) -> dict[str, dict[str, str]]:
    """Run the program, which must not load torch itself, and return what it found."""
    run = "import sys\nsys.argv[0] = 'bo-tune'\nfrom bo_tune.cli import main\ntry: main()\nfinally:\n"
    run += " assert not {'torch', 'triton', 'optuna', 'pynvml'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", run, "doctor", "--json", "-", *options],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return {one["check"]: one for one in json.loads(done.stdout)["checks"]}


@pytest.mark.slow
def test_a_database_is_looked_at_and_not_made(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "x.db")
    found = checks(tmp_path, "--storage", url)
    assert (found["database"]["status"], found["torch"]["status"], found["triton"]["status"]) == ("ok",) * 3
    assert found["database"]["said"].endswith("there is none yet; bo-tune tune creates it")
    assert not (tmp_path / "x.db").exists()
