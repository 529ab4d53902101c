"""The nested JSON: merging, atomicity under kills and full disks, and what vLLM could not look up."""

import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import forked
import pytest
from helpers import PATIENCE_S, ROOT
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.base import Keys, TunedEntry
from bo_tune.engines.folder import (
    check_writable,
    flat_configs,
    read_folder,
    read_provenance,
    read_table,
    write_tables,
)
from bo_tune.engines.provenance import Provenance, provenance_path
from bo_tune.engines.vllm.file_names import FILE_STEMS, split_file_name, table_file_name
from bo_tune.engines.vllm.table_format import CONFIG_ORDER, in_order, missing_lookups, nested
from bo_tune.errors import TableError

GPU = "NVIDIA_H100_80GB_HBM3"
SHRINK = f"{GPU}_SHRINK.json"
CONFIG = {"num_stages": 2, "split_k": 8, "block_m": 16, "block_n": 32, "block_k": 64, "num_warps": 4, "num_ctas": 1}
PROVENANCE = Provenance(
    problem=LoraProblem("lora_shrink", 4, 1, 16, 4096, 16),
    config=CONFIG,
    time_us=5.92,
    default_time_us=10.8,
    gpu="NVIDIA H100 80GB HBM3",
    driver="580.1",
    torch="2.11.0",
    triton="3.6.0",
    kernel_source="bo_tune 3f2a9c1e",
    date="2026-01-02T03:04:05+00:00",
    study="a study",
    sampler="grid-gp",
    session="s1",
    costs={"launched_configs": 40, "timing_launches": 400, "compile_s": 12.5},
)


def entry(*numbers: int, stem: str = "SHRINK", **config: int) -> TunedEntry:
    return TunedEntry(table_file_name(GPU, stem), tuple(map(str, numbers)), {**CONFIG, **config}, PROVENANCE)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_new_table_is_nested_sorted_and_in_order(tmp_path: Path) -> None:
    results = [entry(5, 3, 256, 4096, 16), entry(5, 3, 16, 4096, 16), entry(5, 1, 16, 4096, 16), entry(2, 1, 8, 9, 16)]
    assert write_tables(tmp_path / "new", results) == [tmp_path / "new" / SHRINK]
    text = (tmp_path / "new" / SHRINK).read_text()
    data = json.loads(text)
    assert list(data) == ["2", "5"]
    assert list(data["5"]) == ["1", "3"]
    assert list(data["5"]["3"]) == ["16", "256"]
    assert list(data["5"]["3"]["16"]["4096"]["16"].items()) == [
        ("block_m", 16), ("block_n", 32), ("block_k", 64), ("split_k", 8), ("num_warps", 4), ("num_ctas", 1),
        ("num_stages", 2),
    ]  # fmt: skip
    assert text.startswith('{\n  "2": {\n    "1"')
    assert text.endswith("}\n")


def test_results_go_to_their_files(tmp_path: Path) -> None:
    results = [
        entry(5, 1, 1, 1, 1),
        entry(5, 1, 1, 1, 1, stem="EXPAND_TRUE"),
        entry(5, 1, 1, 1, 1, stem="EXPAND_FALSE"),
    ]
    moe = replace(entry(4, 2, 16, 16, 2048, 768), file_name=table_file_name(GPU, "FUSED_MOE_LORA_W13_SHRINK"))
    paths = write_tables(tmp_path, [*results, moe])
    assert [path.name for path in paths] == sorted(result.file_name for result in [*results, moe])
    tables = read_folder(tmp_path)
    assert list(tables) == [path.name for path in paths]
    assert {len(keys) for keys in tables[moe.file_name].entries} == {6}
    assert flat_configs(tables)[(moe.file_name, ("4", "2", "16", "16", "2048", "768"))] == CONFIG
    assert leftovers(tmp_path) == []


def test_merging_keeps_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / SHRINK
    mine = {"5": {"1": {"16": {"4096": {"16": {"max_nreg": None, "zeta": 3, "block_m": 1}}}}}}
    path.write_text(json.dumps({**mine, "2": {"1": {"8": {"7": {"6": {"block_m": 64}}}}}}))
    write_tables(tmp_path, [entry(5, 1, 32, 4096, 16), entry(2, 1, 8, 7, 6)])
    data = json.loads(path.read_text())
    assert list(data["5"]["1"]["16"]["4096"]["16"].items()) == [("max_nreg", None), ("zeta", 3), ("block_m", 1)]
    assert data["2"]["1"]["8"]["7"]["6"] == CONFIG
    assert read_table(path).configs[("5", "1", "16", "4096", "16")] == {"zeta": 3, "block_m": 1}


def test_provenance_stands_beside_the_table(tmp_path: Path) -> None:
    (path,) = write_tables(tmp_path, [entry(5, 1, 16, 4096, 16)])
    write_tables(tmp_path, [entry(5, 1, 32, 4096, 16), entry(5, 1, 16, 4096, 16)])
    assert provenance_path(path).name == f"{GPU}_SHRINK.provenance.json"
    assert read_provenance(path) == {
        ("5", "1", "16", "4096", "16"): PROVENANCE,
        ("5", "1", "32", "4096", "16"): PROVENANCE,
    }
    assert list(read_folder(tmp_path)) == [SHRINK]
    assert read_provenance(tmp_path / "other.json") == {}


def test_provenance_of_later_versions_is_kept(tmp_path: Path) -> None:
    (path,) = write_tables(tmp_path, [entry(5, 1, 16, 4096, 16)])
    sidecar = provenance_path(path)
    data = json.loads(sidecar.read_text())
    data["entries"]["5/1/16/4096/16"]["new"] = "field"
    sidecar.write_text(json.dumps(data))
    write_tables(tmp_path, [entry(5, 1, 32, 4096, 16)])
    assert json.loads(sidecar.read_text())["entries"]["5/1/16/4096/16"]["new"] == "field"
    assert len(read_provenance(path)) == 2


CONFIGS = st.dictionaries(st.sampled_from([*CONFIG_ORDER, "max_nreg"]), st.integers(1, 512), min_size=1)
KEYS = st.tuples(*[st.integers(0, 20).map(str)] * 5)


@given(st.dictionaries(KEYS, CONFIGS, max_size=8), st.dictionaries(KEYS, CONFIGS, max_size=8))
def test_merging_is_a_union_that_round_trips(
    tmp_path_factory: pytest.TempPathFactory, old: dict[Keys, dict[str, int]], new: dict[Keys, dict[str, int]]
) -> None:
    merged = {**old, **{keys: in_order(config) for keys, config in new.items()}}
    assert merged == {**old, **new}
    path = tmp_path_factory.getbasetemp() / SHRINK
    path.write_text(json.dumps(nested(merged)))
    assert read_table(path).entries == merged
    assert list(read_table(path).entries) == sorted(merged, key=lambda keys: tuple(map(int, keys)))
    for config in new.values():
        assert in_order(config) == config


@given(st.text("AB_", min_size=1), st.sampled_from(sorted(FILE_STEMS)))
def test_file_names_split_into_gpu_and_stem(gpu: str, stem: str) -> None:
    assert split_file_name(table_file_name(gpu, stem)) == (gpu, stem)


@pytest.mark.parametrize("name", ["_SHRINK.json", "x.json", f"{GPU}_SHRINK.provenance.json", f"{GPU}_SHRINK.json.lock"])
def test_other_files_are_no_tables(name: str) -> None:
    assert split_file_name(name) is None


LEAF = {"block_m": 16}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON: "),
        ('{"5": {', "not JSON: "),
        ("[" * 100_000, "not JSON: "),
        ('{"5": {}, "5": {}}', "not JSON: the key '5' occurs twice"),
        ('{"5": NaN}', "not JSON: NaN is not a number"),
        ([], "expected an object with max_loras as keys, got an array"),
        ({"metadata": {"1": LEAF}}, "metadata: expected a decimal number as max_loras key, got 'metadata'"),
        ({"05": {}}, "05: expected a decimal number"),
        ({"-1": {}}, "-1: expected a decimal number"),
        ({"9" * 5000: {}}, "9"),
        ({"5": {}}, "5: expected a non-empty object, got an empty object"),
        ({"5": {"x": {}}}, "5/x: expected a decimal number as num_slices key"),
        ({"5": {"3": {"16": {"64": {"16": 4}}}}}, "5/3/16/64/16: expected a non-empty object, got 4"),
        ({"5": {"3": {"16": {"64": LEAF}}}}, "5/3/16/64/block_m: expected a decimal number as n key"),
        ({"5": {"3": {"16": {"64": {"16": {"8": LEAF}}}}}}, "5/3/16/64/16: 8: expected an integer, got an object"),
        ({"5": {"3": {"16": {"64": {"16": {"block_m": "16"}}}}}}, "5/3/16/64/16: block_m: expected an integer, got"),
        ({"5": {"3": {"16": {"64": {"16": {"block_m": True}}}}}}, "5/3/16/64/16: block_m: expected an integer, got"),
        ({"5": {"3": {"16": {"64": {"16": {"block_m": 1.5}}}}}}, "5/3/16/64/16: block_m: expected an integer, got"),
    ],
)  # fmt: skip
def test_malformed_tables_are_named_and_left_alone(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / SHRINK
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    before = path.read_bytes()
    attempts = [
        lambda: read_table(path),
        lambda: write_tables(tmp_path, [entry(5, 1, 16, 4096, 16)]),
        lambda: check_writable(tmp_path, [SHRINK]),
    ]
    for attempt in attempts:
        with pytest.raises(TableError) as caught:
            attempt()
        assert str(caught.value).startswith(f"{path}: {message}")
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert not provenance_path(path).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ([], "expected an object with schema_version and entries"),
        ({"schema_version": 99, "entries": {}}, "schema_version: expected 1, got 99"),
        (
            {"schema_version": 1, "entries": {"5/1": 3}},
            "'5/1': expected an entry's keys",
        ),
    ],
)
def test_malformed_sidecars_stop_a_merge(tmp_path: Path, content: Any, message: str) -> None:
    sidecar = provenance_path(tmp_path / SHRINK)
    sidecar.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(TableError, match=message):
        check_writable(tmp_path, [SHRINK])
    with pytest.raises(TableError, match=message):
        write_tables(tmp_path, [entry(5, 1, 16, 4096, 16)])
    assert not (tmp_path / SHRINK).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": None}, "study: None has the wrong type"),
        ({"time_us": "fast"}, "time_us: 'fast' has the wrong type"),
        ({"costs": {"compiles": "many"}}, "costs: "),
        ({"config": [16]}, "config: "),
        ({"problem": {"kernel": "x"}}, "problem: "),
        ({"problem": {**PROVENANCE.to_json()["problem"], "m": 0}}, "problem: "),
    ],
)
def test_wrong_provenance_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / SHRINK
    document = {"schema_version": 1, "entries": {"5/1": {**PROVENANCE.to_json(), **change}}}
    provenance_path(path).write_text(json.dumps(document))
    with pytest.raises(TableError) as caught:
        read_provenance(path)
    assert str(caught.value).startswith(f"{provenance_path(path)}: 5/1: {message}")


def test_incomplete_provenance_is_named(tmp_path: Path) -> None:
    path = tmp_path / SHRINK
    provenance_path(path).write_text('{"schema_version": 1, "entries": {"5/1": {}}}')
    with pytest.raises(TableError, match="5/1: problem is missing"):
        read_provenance(path)


def test_lookups_that_would_crash_the_engine() -> None:
    complete = {tuple(map(str, keys)): LEAF for keys in product((2, 5), (1, 2, 3), (16,), (4096,), (16,))}
    assert missing_lookups(complete) == []
    assert missing_lookups({}) == []
    partial = {keys: config for keys, config in complete.items() if keys[:2] not in {("2", "3"), ("5", "1")}}
    assert missing_lookups(partial) == [
        "max_loras 2: there is no entry for num_slices 3",
        "max_loras 5: there is no entry for num_slices 1",
    ]
    only_one = {keys: config for keys, config in complete.items() if keys[1] == "1"}
    assert missing_lookups(only_one) == []
    assert len(missing_lookups(only_one, num_slices=[1, 3])) == 2


def test_permissions_follow_the_umask_then_the_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (path,) = write_tables(tmp_path, [entry(5, 1, 16, 4096, 16)])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o664)
    write_tables(tmp_path, [entry(5, 1, 32, 4096, 16)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "table.json"
    target.write_text("{}")
    (tmp_path / SHRINK).symlink_to(target)
    write_tables(tmp_path, [entry(5, 1, 16, 4096, 16)])
    assert (tmp_path / SHRINK).is_symlink()
    assert len(read_table(tmp_path / SHRINK).entries) == 1
    assert "5" in json.loads(target.read_text())


def test_what_a_link_leads_to_is_locked_and_has_the_sidecar(tmp_path: Path) -> None:
    """Two folders share a file by links: whoever writes through either takes the same lock, and tells of it once."""
    folders = [tmp_path / "a", tmp_path / "b"]
    target = tmp_path / "real" / "shared.json"
    for folder in (target.parent, *folders):
        folder.mkdir()
    for folder in folders:
        (folder / "GPU_SHRINK.json").symlink_to(target)
    writers = [start_writer(folders[slices % 2], slices, 1, 9) for slices in range(1, 5)]
    for writer in writers:
        _, errors = writer.communicate(timeout=PATIENCE_S)
        assert writer.returncode == 0, errors
    expected = {("5", str(slices), str(m), "4096", "16") for slices, m in product(range(1, 5), range(1, 9))}
    assert set(read_table(folders[0] / "GPU_SHRINK.json").entries) == expected
    assert set(read_provenance(folders[1] / "GPU_SHRINK.json")) == expected
    assert (target.parent / "shared.provenance.json").is_file()
    assert not list(tmp_path.glob("[ab]/*.provenance.json"))


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in (".bo_tune-probe", f".{SHRINK}.lock"):
        (folder / name).symlink_to(victim)
    for attempt in (
        lambda: check_writable(folder, [SHRINK]),
        lambda: write_tables(folder, [entry(5, 1, 16, 4096, 16)]),
    ):
        with pytest.raises(TableError, match=r"the lock file .*SHRINK\.json\.lock is a link; remove it"):
            attempt()
    assert victim.read_text() == "precious"
    (folder / f".{SHRINK}.lock").unlink()
    write_tables(folder, [entry(5, 1, 16, 4096, 16)])


@pytest.mark.parametrize("gpu", ["../../x", "/abs/x", "AMD Instinct MI300X/MI300A", "..\\x", "a\nb", "\ud800"])
def test_a_gpu_whose_name_leads_elsewhere_is_refused(tmp_path: Path, gpu: str) -> None:
    result = replace(entry(5, 1, 16, 4096, 16), file_name=table_file_name(gpu, "SHRINK"))
    folder = tmp_path / "a" / "b" / "c"
    for attempt in (lambda: check_writable(folder, [result.file_name]), lambda: write_tables(folder, [result])):
        with pytest.raises(TableError, match="cannot be the name of a file") as caught:
            attempt()
        assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


def dated(date: str, **config: int) -> TunedEntry:
    origin = replace(PROVENANCE, config={**CONFIG, **config}, date=date)
    return replace(entry(5, 1, 16, 4096, 16, **config), provenance=origin)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2026-01-05T10:00:00+00:00", "2026-01-06T10:00:00+00:00"),
        ("2026-01-05T10:00:00+02:00", "2026-01-05T09:00:00+00:00"),
        ("2026-01-05T10:00:00", "2026-01-05T10:00:00.5Z"),
        ("some day", "2020-01-01"),
    ],
)
def test_what_was_measured_last_stays_whatever_the_order(tmp_path: Path, old: str, new: str) -> None:
    older, newer = dated(old, split_k=4), dated(new, split_k=64)
    for number, results in enumerate(([[older], [newer]], [[newer], [older]], [[older, newer]], [[newer, older]])):
        folder, lines = tmp_path / str(number), []  # type: ignore[var-annotated]
        for written in results:
            write_tables(folder, written, lines.append)
        assert read_table(folder / SHRINK).entries[older.keys]["split_k"] == 64
        assert read_provenance(folder / SHRINK)[older.keys].date == new
        assert lines == [f"{SHRINK}: kept entries that were measured later than the new ones: 1"] * (number == 1)


def test_provenance_of_another_config_goes(tmp_path: Path) -> None:
    """A table edited by hand: what was measured was not this."""
    write_tables(tmp_path, [dated("2026-01-05", split_k=4)])
    table = json.loads((tmp_path / SHRINK).read_text())
    table["5"]["1"]["16"]["4096"]["16"]["split_k"] = 32
    (tmp_path / SHRINK).write_text(json.dumps(table))
    write_tables(tmp_path, [entry(5, 3, 16, 4096, 16)])
    assert set(read_provenance(tmp_path / SHRINK)) == {("5", "3", "16", "4096", "16")}
    write_tables(tmp_path, [dated("2026-01-04", split_k=8)])
    assert read_table(tmp_path / SHRINK).entries[("5", "1", "16", "4096", "16")]["split_k"] == 8


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inner", Path("/proc/bo_tune")):
        with pytest.raises(TableError, match=f"{folder}"):
            check_writable(folder)
        with pytest.raises(TableError, match=f"{folder}"):
            write_tables(folder, [entry(5, 1, 16, 4096, 16)])
    with pytest.raises(TableError, match="no tuned JSON"):
        read_folder(tmp_path)
    with pytest.raises(TableError, match="No such file"):
        read_folder(tmp_path / "nowhere")


def test_a_usable_folder_is_created_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", [SHRINK])
    assert list((tmp_path / "a" / "b").iterdir()) == []


def _mounted(folder: Path, options: str) -> Iterator[Path]:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no mount command")
    folder.mkdir()
    if subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run([umount, folder], check=True)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    yield from _mounted(tmp_path / "tiny", "size=64k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    yield from _mounted(tmp_path / "read_only", "ro")


def test_a_read_only_folder(read_only: Path) -> None:
    with pytest.raises(TableError, match="cannot be written: Read-only file system"):
        check_writable(read_only)
    with pytest.raises(TableError, match="cannot be written: Read-only file system"):
        write_tables(read_only, [entry(5, 1, 16, 4096, 16)])


def test_a_full_disk_loses_nothing(tiny_disk: Path) -> None:
    (path,) = write_tables(tiny_disk, [entry(5, 1, 16, 4096, 16)])
    before = path.read_bytes()
    with pytest.raises(TableError, match="cannot be written: No space left on device"):
        write_tables(tiny_disk, [entry(5, 1, m, 4096, 16) for m in range(1, 500)])
    assert path.read_bytes() == before
    assert leftovers(tiny_disk) == []
    (tiny_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(tiny_disk).free))
    with pytest.raises(TableError, match="cannot be written: No space left on device"):
        check_writable(tiny_disk)
    assert leftovers(tiny_disk) == []


def test_a_limit_on_file_size_loses_nothing(tmp_path: Path) -> None:
    (path,) = write_tables(tmp_path, [entry(5, 1, 16, 4096, 16)])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(TableError, match="cannot be written: File too large"):
            write_tables(tmp_path, [entry(5, 1, m, 4096, 16) for m in range(1, 500)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []


WRITER = """
import json, sys
from pathlib import Path
from bo_tune.core.problem import LoraProblem
from bo_tune.engines.provenance import Provenance
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import write_tables

folder, slices, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
problem = LoraProblem("lora_shrink", 4, slices, 1, 4096, 16)
config = {"block_m": slices, "block_n": 32, "block_k": 64}
date = "2026-01-01T00:00:00+00:00"
origin = Provenance(problem, config, 1.0, 2.0, "gpu", "", "", "", "test", date, "s", "grid", "1", {})
for m in range(first, last):
    keys = ("5", str(slices), str(m), "4096", "16")
    write_tables(folder, [TunedEntry("GPU_SHRINK.json", keys, config, origin)])
    sys.stdout.write(f"{m}\\n")
    sys.stdout.flush()
"""


def start_writer(folder: Path, slices: int, first: int, last: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(folder), str(slices), str(first), str(last)]
    return forked.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_eight_processes_lose_nothing(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path, slices, 1, 13) for slices in range(1, 9)]
    for writer in writers:
        _, errors = writer.communicate(timeout=PATIENCE_S)
        assert writer.returncode == 0, errors
    table = read_table(tmp_path / "GPU_SHRINK.json")
    expected = {("5", str(slices), str(m), "4096", "16") for slices, m in product(range(1, 9), range(1, 13))}
    assert set(table.entries) == expected
    assert all(config["block_m"] == int(keys[1]) for keys, config in table.entries.items())
    assert set(read_provenance(tmp_path / "GPU_SHRINK.json")) == expected
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_killed_writers_leave_whole_files_and_what_they_reported(tmp_path: Path) -> None:
    seeded: Mapping[Keys, dict[str, int]] = {("5", "9", str(m), "4096", "16"): CONFIG for m in range(300)}
    path = tmp_path / "GPU_SHRINK.json"
    path.write_text(json.dumps(nested(seeded)))
    rng = random.Random(0)
    reported: set[str] = set()
    for attempt in range(20):
        writer = start_writer(tmp_path, 1, 1000 * attempt, 1000 * (attempt + 1))
        assert writer.stdout is not None
        reported.add(writer.stdout.readline().strip())
        time.sleep(rng.uniform(0.0, 0.06))
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate(timeout=PATIENCE_S)
        reported.update(line for line in rest.split("\n")[:-1])
        entries = read_table(path).entries
        assert reported <= {keys[2] for keys in entries if keys[1] == "1"}
        assert set(seeded) <= set(entries)
        origins = set(read_provenance(path))
        assert {keys for keys in entries if keys[1] == "1"} <= origins
    assert len(reported) >= 20
    write_tables(tmp_path, [replace(entry(5, 1, 1, 1, 1), file_name="GPU_SHRINK.json")])
    assert leftovers(tmp_path) == []
