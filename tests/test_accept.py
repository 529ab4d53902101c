"""``studies/accept.py``: a tuned folder is checked, shortened and taken in, or refused."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, script

from bo_tune.engines.folder import read_entries, table_paths
from bo_tune.errors import InputError

NAME = "phi-4"
SHIPPED = ROOT / "studies" / "folders" / NAME


@pytest.fixture
def accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a folder of folders of its own that has a study file."""
    module = script(ROOT / "studies" / "accept.py")
    study = tmp_path / "studies" / "folders" / NAME / "study.toml"
    study.parent.mkdir(parents=True)
    shutil.copy(SHIPPED / "study.toml", study)
    shutil.copytree(ROOT / "studies" / "models" / NAME, tmp_path / "studies" / "models" / NAME)
    monkeypatch.setattr(module, "FOLDERS", study.parents[1])
    return module


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A folder as ``tune`` has written it."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    for path in SHIPPED.glob("*.json"):
        shutil.copy(path, folder)
    (sidecar,) = folder.glob("*_SHRINK.provenance.json")
    document = json.loads(sidecar.read_text())
    for entry in document["entries"].values():
        entry["in_place"] = {**entry["in_place"], "finalists": [[{"block_m": 16}, 12.3456789]]}
    sidecar.write_text(json.dumps(document, indent=2))
    return folder


def test_what_is_taken_in_has_the_same_entries_without_finalists(accept: ModuleType, tuned: Path) -> None:
    written = accept.accept(tuned, NAME)
    assert {path.name for path in written} == {path.name for path in SHIPPED.glob("*.json")}
    folder = written[0].parent
    for table in table_paths(folder):
        assert read_entries(table) == read_entries(SHIPPED / table.name)
    assert all(path.read_text() == (SHIPPED / path.name).read_text() for path in written)


def test_files_without_a_sidecar_are_refused(accept: ModuleType, tuned: Path) -> None:
    (sidecar,) = tuned.glob("*_SHRINK.provenance.json")
    sidecar.unlink()
    with pytest.raises(InputError, match=r"NVIDIA_H200_SHRINK\.json has no sidecar, so nobody could tell"):
        accept.accept(tuned, NAME)


def test_a_lookup_that_fails_is_refused_and_nothing_is_written(accept: ModuleType, tuned: Path) -> None:
    table = tuned / "NVIDIA_H200_SHRINK.json"
    entries = json.loads(table.read_text())
    for slices in entries.values():
        slices.pop(next(iter(slices)))
    table.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"\d+ faults, the first: "):
        accept.accept(tuned, NAME)
    assert [path.name for path in (accept.FOLDERS / NAME).iterdir()] == ["study.toml"]
