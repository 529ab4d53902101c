"""``bo-tune tune --ray`` on a cluster of this machine alone, with recordings in place of GPUs."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import EXPAND, EXPAND_TABLE, ROOT, SHRINK, SHRINK_TABLE, Cli, run_command, sliced, sqlite_url, write_all
from moe_recordings import small
from planted import Planted

from bo_tune.core.choices import MEMORY
from bo_tune.core.conditions import Conditions
from bo_tune.core.space import config_key
from bo_tune.errors import DeviceError
from bo_tune.kernels.registry import DECIDING
from bo_tune.measure.described import DescribedDevice, Description
from bo_tune.measure.devices import replay_job, together, with_deciding
from bo_tune.session.workers import ray as ray_workers
from bo_tune.store.attributes import DONE_ATTR, JOB_ATTR, ORIGIN_ATTR
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

BUDGET = 6


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_all(
        tmp_path / "recordings", *(sliced(SHRINK, m=m) for m in (16, 32, 64)), *(sliced(EXPAND, m=m) for m in (1, 2))
    )


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray has no release for this Python")
def test_workers_of_a_local_cluster_do_it_all(recordings: Path, tmp_path: Path) -> None:
    database, out = tmp_path / "x.db", tmp_path / "out"
    # The database is named from where the session runs.
    where = ("--device", f"replay:{recordings}", "--storage", f"sqlite:///{database.name}", "--out", out)
    search = ("--sampler", "random", "--budget", BUDGET, "--verbose")
    planted = Planted(tmp_path)
    ran = run_command("tune", *where, *search, "--ray", "local", "--workers", 2, cwd=tmp_path)
    assert (ran.code, planted.ran) == (0, []), ran
    assert "[5/5]" in ran.out
    assert "\nrecorded " not in ran.out, "nothing is measured by the session itself"
    store = StudyStore(sqlite_url(database), create=False)
    studies = store.summaries()
    trials = store.trials_of(studies)
    store.close()
    assert len(studies) == 5
    for study in studies:
        assert study.attributes[DONE_ATTR] == study.attributes[JOB_ATTR]
        assert study.attributes[ORIGIN_ATTR]["session"]
        assert len({config_key(t.params) for t in trials[study.name]}) == len(trials[study.name]) >= BUDGET
    tables = [json.loads((out / name).read_text()) for name in (SHRINK_TABLE, EXPAND_TABLE)]
    assert [len(table["5"][slices]) for table, slices in zip(tables, "12", strict=True)] == [3, 2]


def test_what_cannot_be_done_is_said_in_a_line(
    cli: Cli, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--device", f"replay:{recordings}", "--ray", "local")
    assert "--storage" in cli("tune", *where, "--storage", MEMORY).error
    model = ("--model", ROOT / "studies" / "models" / "llama-3.1-8b", "--max-loras", 1, "--rank", 8)
    assert "--m auto" in cli("tune", *where, "--m", "auto", *model).error

    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(ray_workers, "import_module", missing)
    assert "bo-tune[ray]" in cli("tune", *where, "--storage", sqlite_url(tmp_path / "x.db")).error
    assert not (tmp_path / "x.db").exists()


def test_a_gpu_elsewhere_has_the_names_of_its_studies_and_measures_nothing() -> None:
    job = replay_job(sliced(SHRINK))
    kernel = job.problem.kernel
    described = DescribedDevice(Description.of(job.device, [job.problem]))
    assert (described.gpu, described.conditions) == (job.device.gpu, Conditions())
    assert described.kernel_source(kernel) == job.device.kernel_source(kernel)
    assert described.provenance == job.device.provenance
    with pytest.raises(DeviceError, match="not a GPU of this host"):
        described.compile(job.problem, {})
    with pytest.raises(DeviceError, match="not a GPU of this host"):
        described.remeasure(job.problem, [], 1)


def test_a_gpu_elsewhere_says_which_kernels_decide_and_which_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [replay_job(recording) for recording in small(16)]
    (group,) = together(jobs)
    device = group[0].device
    monkeypatch.setattr(type(device), "decided_by", lambda _, problem: tuple(DECIDING))
    monkeypatch.setattr(type(device), "note", lambda _, problem: f"of {problem.kernel}")
    described = DescribedDevice(Description.of(device, [job.problem for job in group]))
    added = with_deciding([replace(job, device=described) for job in group])[len(group) :]
    assert [job.problem.kernel for job in added] == list(DECIDING)
    assert all(job.device is described for job in added)
    assert described.note(group[0].problem) == f"of {group[0].problem.kernel}"
    dense = replay_job(sliced(SHRINK))
    plain = Description.of(dense.device, [dense.problem])
    assert not plain.decided_by
    without = replace(plain, sources={})
    with pytest.raises(DeviceError, match="has no lora_shrink"):
        DescribedDevice(without).kernel_source("lora_shrink")
