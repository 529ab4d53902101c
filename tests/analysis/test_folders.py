"""The tuned folders that come with the package: each is whole, checked, and says where it comes from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT

from bo_tune.analysis import folders
from bo_tune.analysis.folders import fitting, ready_folders
from bo_tune.engines.folder import read_entries
from bo_tune.errors import InputError

TUNED = sorted({path.parent.name for path in (ROOT / "studies" / "folders").glob("*/*.provenance.json")})
(LLAMA,) = ready_folders(["llama-3.1-8b"], gpu="H200")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped folder with one model, tuned on nothing yet."""
    models = tmp_path / "models" / "llama-3.1-8b"
    models.mkdir(parents=True)
    (models / "config.json").write_text((ROOT / "studies/models/llama-3.1-8b/config.json").read_text())
    mine = tmp_path / "folders" / "llama-3.1-8b"
    mine.mkdir(parents=True)
    (mine / "study.toml").write_text((LLAMA.folder / "study.toml").read_text())
    monkeypatch.setattr(folders, "shipped_folder", lambda: tmp_path)
    return mine


def test_there_are_many() -> None:
    assert len(TUNED) >= 10
    assert {one.name for one in ready_folders()} == set(TUNED)
    assert set(TUNED) <= {path.name for path in (ROOT / "studies" / "models").iterdir()}


@pytest.mark.parametrize("name", TUNED)
def test_each_answers_every_lookup_of_the_engines_it_was_tuned_for(name: str) -> None:
    for ready in ready_folders([name]):
        assert ready.model.ranks == (16, 64)
        assert ready.model.max_loras == (4, 8)
        report = ready.check(ready.model)
        assert not report.faults
        assert report.count("exact") >= len(ready.model.ms) * 4
        assert ready.speed_up is not None
        assert ready.speed_up > 1.2
        assert ready.kernel_sources


@pytest.mark.parametrize("name", TUNED)
def test_each_entry_says_where_it_comes_from_and_how_sure_it_is(name: str) -> None:
    for ready in ready_folders([name]):
        origins = [one.provenance for table in ready.tables for one in read_entries(table)]
        for origin in origins:
            assert origin is not None
            assert origin.gpu == ready.gpu
            assert not origin.disturbed, origin  # None where a session was interrupted: it is not known
            assert all((origin.triton, origin.torch, origin.driver, origin.certificate)), origin
        # All but lm_head, which is no part of a decoder layer, have raced where the engine runs them.
        raced = [bool(one and (one.in_place or one.joint)) for one in origins]
        assert sum(raced) > 0.75 * len(raced)


def test_a_model_of_other_sizes_gets_none() -> None:
    other = replace(LLAMA.model, ranks=(32,))
    with pytest.raises(InputError, match=r"no tuned folder answers every lookup of this engine.*: tune it with"):
        fitting([LLAMA], other)


def test_the_one_with_the_most_exact_answers_comes_first() -> None:
    found = fitting(
        ready_folders(["phi-4", "qwen3-8b", "llama-3.1-8b"]), replace(LLAMA.model, ranks=(16,), max_loras=(4,))
    )
    assert found[0][0].name == "llama-3.1-8b"
    counts = [report.count("exact") for _, report in found]
    assert counts == sorted(counts, reverse=True)


def test_what_nobody_has_tuned_is_told(shipped: Path) -> None:
    with pytest.raises(InputError, match=r"llama-3\.1-8b: nobody has tuned this on any GPU yet: bo-tune tune does"):
        ready_folders(["llama-3.1-8b"])


def test_files_of_several_gpus_lie_side_by_side(shipped: Path) -> None:
    for table in LLAMA.folder.glob("NVIDIA_H200_*.json"):
        text = table.read_text()
        (shipped / table.name).write_text(text)
        other = text.replace('"gpu":"NVIDIA H200"', '"gpu":"NVIDIA B200"')
        (shipped / table.name.replace("H200", "B200")).write_text(other)
    found = ready_folders()
    assert [one.gpu for one in found] == ["NVIDIA B200", "NVIDIA H200"]
    assert [len(one.tables) for one in found] == [2, 2]
    assert [one.gpu for one in ready_folders(gpu="h200")] == ["NVIDIA H200"]
    with pytest.raises(InputError, match=r"--gpu A100: there are tuned folders for NVIDIA B200, NVIDIA H200 alone"):
        ready_folders(gpu="A100")


def test_json_of_a_folder_has_what_the_table_shows() -> None:
    told = json.loads(json.dumps(LLAMA.to_json()))
    assert (told["name"], told["gpu"], told["tensor_parallel"]) == ("llama-3.1-8b", "NVIDIA H200", 1)
    assert told["entries"] == sum(len(read_entries(table)) for table in LLAMA.tables)
