"""Packs written and read: whole, damaged and hostile ones."""

import json
import os
import stat
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_samples import ENTRY, FILES, OTHER, binary, cache_folder, failure, manifest, sample_pack, zipped

from bo_tune.errors import PackError
from bo_tune.formats.pack import archive
from bo_tune.formats.pack.archive import read_manifest, unpack, write_pack
from bo_tune.formats.pack.contents import PackedFile, to_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where packs are unpacked: below a folder that must stay as it is."""
    made = tmp_path / "outside" / "inside"
    made.mkdir(parents=True)
    return made


def refused(path: Path, folder: Path) -> str:
    """Return the line with which a pack is refused; nothing was written outside the folder."""
    with pytest.raises(PackError) as caught:
        unpack(path, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    return message


def test_a_pack_holds_machine_code_and_its_description_and_lists_them_where_they_lie(
    tmp_path: Path, folder: Path
) -> None:
    path = sample_pack(tmp_path)
    found = unpack(path, folder)
    assert found == read_manifest(path)
    assert [b.entry for b in found.binaries] == [ENTRY, "B" * 52, None]
    assert {p.name for p in folder.iterdir()} == {ENTRY, "B" * 52}
    for name, text in FILES.items():
        assert (folder / ENTRY / name).read_bytes() == text
    listed = json.loads((folder / ENTRY / "__grp__k.json").read_text())["child_paths"]
    assert listed == {name: str(folder / ENTRY / name) for name in FILES}
    assert {p.name for p in (folder / ENTRY).iterdir()} == {*FILES, "__grp__k.json"}


def test_entries_that_are_there_are_left_alone(tmp_path: Path, folder: Path) -> None:
    path = sample_pack(tmp_path)
    unpack(path, folder)
    before = contents(folder)
    (folder / ENTRY / "k.cubin").write_bytes(b"mine")
    unpack(path, folder)
    assert contents(folder) == {**before, f"{ENTRY}/k.cubin": b"mine"}


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_a_pack_is_as_private_as_its_maker_wants(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        assert sample_pack(tmp_path).stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


def test_writing_fails_whole_and_leaves_the_old_pack(tmp_path: Path) -> None:
    path = sample_pack(tmp_path)
    before = path.read_bytes()
    cache = cache_folder(tmp_path / "other", **{ENTRY: {**FILES, "k.cubin": b"changed"}})
    with pytest.raises(PackError, match="differs from the manifest"):
        write_pack(path, manifest(binary()), cache)
    with pytest.raises(PackError, match="No such file"):
        write_pack(path, manifest(binary("C" * 52)), cache)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("name", ["../k.cubin", "/tmp/k.cubin", "a/k.cubin", "k.so", "k.cubin\n", "..", "__grp__k.txt"])
def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path, folder: Path, name: str) -> None:
    one = binary()
    files = {**one.files, name: PackedFile(1, "0" * 64)}
    document = json.loads(to_json(manifest(one)))
    document["binaries"][0]["files"] = {n: {"size": f.size, "sha256": f.sha256} for n, f in files.items()}
    path = tmp_path / "x.pack"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("manifest.json", json.dumps(document))
    assert "binaries.0.files" in refused(path, folder)


@pytest.mark.parametrize("entry", ["..", "/tmp/x", "A" * 51, f"../{'A' * 49}", "A" * 52 + "\n", "a" * 52])
def test_a_manifest_cannot_name_folders_elsewhere(tmp_path: Path, folder: Path, entry: str) -> None:
    document = json.loads(to_json(manifest(binary())))
    document["binaries"][0]["entry"] = entry
    path = tmp_path / "x.pack"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("manifest.json", json.dumps(document))
        made.writestr(f"cache/{entry}/k.cubin", b"x")
    assert "binaries.0.entry" in refused(path, folder)


@pytest.mark.parametrize("member", ["../evil", "/evil", f"cache/{ENTRY}/../../evil", f"cache/{ENTRY}/k.so", "evil/"])
def test_members_that_the_manifest_does_not_name_are_refused(tmp_path: Path, folder: Path, member: str) -> None:
    members = {f"cache/{ENTRY}/{name}": text for name, text in FILES.items()}
    path = zipped(tmp_path / "x.pack", {**members, member: b"evil"}, binary())
    assert "is not in the manifest" in refused(path, folder)
    assert list(folder.iterdir()) == []


def test_a_link_is_a_file_whose_digest_is_wrong(tmp_path: Path, folder: Path) -> None:
    link = zipfile.ZipInfo(f"cache/{ENTRY}/k.cubin")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "x.pack", {f"cache/{ENTRY}/k.json": FILES["k.json"], link: b"/etc/passwd"}, binary())
    assert "differs from the manifest" in refused(path, folder)
    honest = {**FILES, "k.cubin": b"/etc/passwd"}
    path = zipped(
        tmp_path / "y.pack", {f"cache/{ENTRY}/k.json": FILES["k.json"], link: b"/etc/passwd"}, binary(files=honest)
    )
    unpack(path, folder)
    assert not (folder / ENTRY / "k.cubin").is_symlink()
    assert (folder / ENTRY / "k.cubin").read_bytes() == b"/etc/passwd"


def test_nothing_grows_beyond_what_was_announced(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"cache/{ENTRY}/k.json": FILES["k.json"], f"cache/{ENTRY}/k.cubin": bytes(50_000_000)}
    path = zipped(tmp_path / "x.pack", members, binary())
    assert path.stat().st_size < 100_000
    assert "is longer than" in refused(path, folder)
    path = zipped(tmp_path / "y.pack", members, binary(files={**FILES, "k.cubin": bytes(10)}))
    assert "is longer than 10 B" in refused(path, folder)
    document = to_json(manifest(binary())).replace(b'"size":5124', b'"size":99999999999')
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("manifest.json", document)
    assert "size" in refused(path, folder)
    monkeypatch.setattr(archive, "MOST_UNPACKED_BYTES", 1000)
    assert "holds more than" in refused(sample_pack(tmp_path), folder)
    monkeypatch.setattr(archive, "MOST_MANIFEST_BYTES", 100)
    assert "'manifest.json' is longer than 100 B" in refused(sample_pack(tmp_path / "again"), folder)


def test_what_is_missing_is_named(tmp_path: Path, folder: Path) -> None:
    path = zipped(tmp_path / "x.pack", {f"cache/{ENTRY}/k.json": FILES["k.json"]}, binary())
    assert "k.cubin' is missing" in refused(path, folder)
    alone = {"k.json": FILES["k.json"]}
    path = zipped(tmp_path / "y.pack", {f"cache/{ENTRY}/k.json": FILES["k.json"]}, binary(files=alone))
    assert "has no machine code" in refused(path, folder)
    assert list(folder.iterdir()) == []


def test_what_is_no_pack_is_said_to_be_none(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "x.pack"
    assert "No such file" in refused(path, folder)
    path.write_bytes(b"not a zip")
    assert "it is not a pack" in refused(path, folder)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("hello", "world")
    assert "it has no manifest.json" in refused(path, folder)
    path.unlink()
    path.mkdir()
    assert "Is a directory" in refused(path, folder)


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_pack_is_refused_or_still_right(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("damaged")
    path = sample_pack(place)
    whole = read_manifest(path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "truncated"):
        del content[data.draw(st.integers(0, len(content) - 1), "at") :]
    for _ in range(data.draw(st.integers(0, 4), "changes")):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    folder = place / "outside" / "inside"
    folder.mkdir(parents=True)
    found = None
    with suppress(PackError):
        found = unpack(path, folder)
    if found is not None:
        assert [b.files for b in found.binaries] == [b.files for b in whole.binaries]
    for entry in folder.iterdir():
        assert {p.name: p.read_bytes() for p in entry.iterdir() if p.name in FILES} in (FILES, OTHER)
    assert [p.name for p in folder.parent.iterdir()] == ["inside"]


def test_failures_travel_without_files(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "x.pack"
    write_pack(path, manifest(failure()), tmp_path)
    assert unpack(path, folder).binaries == (failure(),)
    assert list(folder.iterdir()) == []
