"""``bo-tune tune`` on GPUs that others use, which are not there: what is said, marked and refused."""

import json
import os
import sys
from pathlib import Path

import forked
import pytest
from helpers import PATIENCE_S, Cli, Ran, run_command, sqlite_url

from bo_tune.measure.watch.neighbours import PRESENT

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STUDY = """
name = "two"
[[problem]]
kernel = "lora_shrink"
max_loras = 4
num_slices = 1
m = [16, 256]
k = 4096
n = 16
"""
BUSY = "1 other process, 87 % utilisation: times will be distorted"


def tune(folder: Path, *words: object, processes: tuple[int, ...] = (7,), percent: int = 87) -> Ran:
    """Tune on GPUs of which the driver says this."""
    (folder / "study.toml").write_text(STUDY)
    watch = folder / "watch.json"
    watch.write_text(json.dumps({"processes": processes, "utilisation_percent": percent}))
    where = ["--jobs", 2, "--kernels", "builtin", "--storage", sqlite_url(folder / "x.db"), "--out", "out"]
    everything = ["tune", "study.toml", *where, "--no-bundled", "--budget", 3, "--verbose", *words]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = forked.run(
        [sys.executable, HERE / "gpus.py", *map(str, everything)],
        env={**os.environ, "PYTHONPATH": path, "FAKE_WATCH": str(watch)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_it_is_said_first_and_marked_everywhere(tmp_path: Path) -> None:
    ran = tune(tmp_path, "--json", "x.json")
    assert (ran.code, ran.err) == (0, ""), ran
    lines = ran.out.splitlines()
    warned = lines.index(f"warning  GPU 0 is busy: {BUSY}")
    assert warned < min(number for number, line in enumerate(lines) if line.startswith("recorded "))
    assert ran.out.count("warning ") == 2
    assert f"warning  NVIDIA Fake 9: {PRESENT}: times are distorted, and marked" in lines
    assert any(line.startswith(f"2 marked !: their times are distorted ({PRESENT})") for line in lines)
    sidecar = json.loads((tmp_path / "out" / "NVIDIA_Fake_9_SHRINK.provenance.json").read_text())
    assert [entry["disturbed"] for entry in sidecar["entries"].values()] == [[PRESENT]] * 2
    studies = json.loads((tmp_path / "x.json").read_text())["studies"]
    assert [study["disturbed"] for study in studies] == [[PRESENT]] * 2
    shown = run_command("show", "--storage", sqlite_url(tmp_path / "x.db"), cwd=tmp_path).out
    assert shown.count(" ! ") == 2


def test_workers_tell_it_and_what_they_mark_is_collected(tmp_path: Path) -> None:
    ran = tune(tmp_path, "--gpus", "0,1", "--workers", 2)
    assert (ran.code, ran.err) == (0, ""), ran
    assert [ran.out.count(f"warning  GPU {number} is busy: {BUSY}\n") for number in range(2)] == [1, 1]
    sidecar = json.loads((tmp_path / "out" / "NVIDIA_Fake_9_SHRINK.provenance.json").read_text())
    assert [entry["disturbed"] for entry in sidecar["entries"].values()] == [[PRESENT]] * 2


def test_an_idle_gpu_may_be_required(tmp_path: Path) -> None:
    refused = tune(tmp_path, "--require-idle")
    assert refused.error == f"--require-idle: GPU 0 is busy: {BUSY}"
    assert not (tmp_path / "x.db").exists()
    idle = tune(tmp_path, "--require-idle", processes=(), percent=0)
    assert (idle.code, idle.err, idle.out.count("warning ")) == (0, "", 0)
    assert "the driver does not show its processes" in idle.out, "nor its own"


def test_recordings_are_never_idle(cli: Cli, tmp_path: Path) -> None:
    assert (
        "--require-idle has no effect on recordings, which need no GPU; leave it out"
        in cli("tune", "--device", "replay:x", "--require-idle").error
    )
