"""``bo-tune tune`` and ``grid`` from one end to the other, on recorded grids."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    BUNDLED,
    EXPAND,
    EXPAND_TABLE,
    H100,
    ONE_PROBLEM,
    PATIENCE_S,
    ROOT,
    SHRINK,
    SHRINK_BIG,
    SHRINK_TABLE,
    Cli,
    Ran,
    run_command,
    sliced,
    sqlite_url,
    stored_trials,
    write_all,
)
from moe_recordings import GPU_FILES

from bo_tune.core.choices import SAMPLERS
from bo_tune.core.space import config_key
from bo_tune.engines.folder import read_table
from bo_tune.formats.recording import read_recording, read_recordings
from bo_tune.store.trials import launched

pytestmark = pytest.mark.slow

TABLES = (SHRINK_TABLE, EXPAND_TABLE)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four problems: three of shrink, one of expand."""
    folder = tmp_path_factory.mktemp("recordings")
    return write_all(folder, sliced(SHRINK), sliced(SHRINK_BIG), sliced(SHRINK, m=32), sliced(EXPAND))


class Place:
    """A database and an output folder, and the command that uses them."""

    def __init__(self, cli: Cli, folder: Path, recordings: Path) -> None:
        self.cli, self.database, self.out, self.recordings = cli, folder / "x.db", folder / "out", recordings

    def __call__(self, command: str, *more: object, code: int = 0) -> Ran:
        device, storage = f"replay:{self.recordings}", sqlite_url(self.database)
        ran = self.cli(command, "--device", device, "--storage", storage, "--out", self.out, *more)
        assert (ran.code, ran.err) == (code, ""), ran
        return ran

    def tables(self) -> dict[str, Any]:
        return {path.name: json.loads(path.read_text()) for path in self.out.glob("*[!e].json")}


@pytest.fixture
def place(cli: Cli, tmp_path: Path, recordings: Path) -> Place:
    return Place(cli, tmp_path, recordings)


def leaves(node: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, int]]:
    if all(isinstance(value, int) for value in node.values()):
        return {above: node}
    return {keys: leaf for key, below in node.items() for keys, leaf in leaves(below, (*above, key)).items()}


def test_tune_and_grid_write_the_same_keys(cli: Cli, tmp_path: Path, recordings: Path) -> None:
    tuned, grid = Place(cli, tmp_path / "tuned", recordings), Place(cli, tmp_path / "grid", recordings)
    for place in (tuned, grid):
        place.database.parent.mkdir()
    tuned("tune", "--budget", 12)
    grid("grid")
    assert set(tuned.tables()) == set(grid.tables()) == set(TABLES)
    for name in TABLES:
        ours, theirs = leaves(tuned.tables()[name]), leaves(grid.tables()[name])
        assert set(ours) == set(theirs)
        assert {tuple(leaf) for leaf in [*ours.values(), *theirs.values()]} == {tuple(next(iter(ours.values())))}
        sidecars = [json.loads((p.out / name.replace(".json", ".provenance.json")).read_text()) for p in (tuned, grid)]
        for sidecar in sidecars:
            assert {tuple(keys.split("/")) for keys in sidecar["entries"]} == set(ours)
    assert set(leaves(tuned.tables()[SHRINK_TABLE])) == {
        ("5", "1", "16", "4096", "16"), ("5", "1", "32", "4096", "16"), ("9", "1", "4096", "4096", "16")
    }  # fmt: skip


def test_a_grid_finds_the_best_recorded_config_or_one_next_to_it(place: Place, recordings: Path) -> None:
    place("grid", "--kernel", "lora_expand")
    (config,) = leaves(place.tables()[EXPAND_TABLE]).values()
    recording = read_recording(recordings / sliced(EXPAND).path.name)
    entry = recording.entry(config)
    assert entry is not None
    assert entry.time_us is not None
    assert entry.time_us <= 1.05 * recording.best_time_us


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_tunes(place: Place, sampler: str) -> None:
    place("tune", "--sampler", sampler, "--budget", 8, "--kernel", "lora_expand")
    (trials,) = stored_trials(place.database).values()
    assert sum(map(launched, trials)) == 8
    assert set(place.tables()) == {EXPAND_TABLE}


def test_the_budget_counts_launched_configs_and_can_grow(place: Place) -> None:
    place("tune", "--sampler", "random", "--budget", 5)
    first = stored_trials(place.database)
    assert len(first) == 4
    again = place("tune", "--sampler", "random", "--budget", 11, "--verbose")
    assert again.out.count("\nresumed ") == 4
    for name, trials in stored_trials(place.database).items():
        assert sum(map(launched, trials)) == 11
        assert max(Counter(config_key(t.params) for t in trials).values()) == 1
        before = first[name]
        assert [t.params for t in trials[: len(before)]] == [t.params for t in before]
        assert sum(map(launched, before)) == 5
        assert again.out.count(f"\nrecorded {name} ") == len(trials) - len(before)


def test_a_finished_session_is_not_repeated(place: Place) -> None:
    place("tune", "--sampler", "random", "--budget", 5)
    tables, trials = place.tables(), stored_trials(place.database)
    ran = place("tune", "--sampler", "random", "--budget", 5, "--verbose")
    assert "\nrecorded " not in ran.out
    assert place.tables() == tables
    assert {name: len(found) for name, found in stored_trials(place.database).items()} == {
        name: len(found) for name, found in trials.items()
    }


@pytest.mark.parametrize("sampler", ["grid-gp", "random"])
def test_the_same_seed_gives_the_same_json(place: Place, sampler: str) -> None:
    options = ("--sampler", sampler, "--budget", 10, "--storage", "memory")
    place("tune", *options, "--seed", 3)
    first = place.tables()
    for path in place.out.iterdir():
        path.unlink()
    place("tune", *options, "--seed", 3)
    assert place.tables() == first


STUDY = (
    ONE_PROBLEM
    + """
[space.lora_shrink]
{ranges}

[budget]
launched_configs = 6
"""
)


@pytest.mark.parametrize(
    "ranges",
    [
        "block_m = [16, 64]\nsplit_k = [8]",
        "num_stages = [2, 3, 5]\nblock_k = [64]",
        "split_k = [6, 8, 24, 64]",
    ],
)
@pytest.mark.parametrize("sampler", ["grid-gp", "random", "tpe"])
def test_a_range_may_change_between_runs(place: Place, tmp_path: Path, ranges: str, sampler: str) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(ranges=""))
    place("tune", study, "--sampler", sampler)
    (before,) = stored_trials(place.database).values()
    study.write_text(STUDY.format(ranges=ranges))
    place("tune", study, "--sampler", sampler, "--budget", 14)
    (trials,) = stored_trials(place.database).values()
    assert [t.params for t in trials[: len(before)]] == [t.params for t in before]
    assert max(Counter(config_key(t.params) for t in trials).values()) == 1
    assert len(trials) > len(before)
    allowed = {line.split(" = ")[0]: json.loads(line.split(" = ")[1]) for line in ranges.splitlines()}
    for trial in trials[len(before) :]:
        assert all(trial.params[name] in values for name, values in allowed.items())


def test_a_study_file_says_budget_seed_and_sampler(place: Place, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(ranges="") + '\n[search]\nsampler = "random"\nseed = 4\n')
    place("tune", study)
    (by_file,) = stored_trials(place.database).values()
    assert sum(map(launched, by_file)) == 6
    other = Place(place.cli, tmp_path / "other", place.recordings)
    other.database.parent.mkdir()
    other("tune", study, "--budget", 6, "--seed", 4, "--sampler", "random")
    (by_options,) = stored_trials(other.database).values()
    assert [t.params for t in by_options] == [t.params for t in by_file]
    place("tune", study, "--budget", 9)
    (more,) = stored_trials(place.database).values()
    assert sum(map(launched, more)) == 9


def test_grids_are_recorded_and_replay_again(place: Place, tmp_path: Path, recordings: Path) -> None:
    ran = place("grid", "--record", tmp_path / "recorded")
    original, again = read_recordings(recordings), read_recordings(tmp_path / "recorded")
    assert [r.path.name for r in again] == [r.path.name for r in original]
    for old, new in zip(original, again, strict=True):
        assert f"wrote {new.path}" in ran.out
        assert new.configs() == old.configs()
        assert [e.reason is None for e in new.entries.values()] == [e.reason is None for e in old.entries.values()]
    second = Place(place.cli, tmp_path / "second", tmp_path / "recorded")
    second.database.parent.mkdir()
    second("grid")
    for name in TABLES:
        assert set(leaves(second.tables()[name])) == set(leaves(place.tables()[name]))


def test_two_gpus_go_to_files_of_their_own(cli: Cli, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "r", sliced(SHRINK), sliced(SHRINK, gpu="NVIDIA H200"), sliced(SHRINK, m=32))
    place = Place(cli, tmp_path, folder)
    place("tune", "--budget", 6, "--sampler", "random")
    tables = place.tables()
    assert set(tables) == {SHRINK_TABLE, "NVIDIA_H200_SHRINK.json"}
    assert set(leaves(tables["NVIDIA_H200_SHRINK.json"])) == {("5", "1", "16", "4096", "16")}
    assert len(leaves(tables[SHRINK_TABLE])) == 2
    assert len(stored_trials(place.database)) == 3


def test_what_others_tuned_stays_in_the_json(place: Place) -> None:
    place.out.mkdir()
    config = {"block_m": 1, "block_n": 2, "group_size_m": None}
    kept = {"2": {"1": {"8": {"512": {"16": config}}}}, "5": {"1": {"16": {"4096": {"8": config}}}}}
    (place.out / SHRINK_TABLE).write_text(json.dumps(kept))
    place("tune", "--budget", 5, "--sampler", "random")
    table = place.tables()[SHRINK_TABLE]
    assert table["2"] == kept["2"]
    assert table["5"]["1"]["16"]["4096"]["8"] == config
    assert set(table["5"]["1"]["16"]["4096"]) == {"8", "16"}


def test_a_gap_that_would_stop_the_engine_is_noted(cli: Cli, tmp_path: Path) -> None:
    folder = write_all(tmp_path / "r", sliced(SHRINK), sliced(EXPAND))
    place = Place(cli, tmp_path, folder)
    place.out.mkdir()
    kept = {"2": {"1": {"8": {"512": {"16": {"block_m": 16}}}}}}
    (place.out / EXPAND_TABLE).write_text(json.dumps(kept))
    ran = place("tune", "--budget", 4, "--sampler", "random")
    notes = [line for line in ran.out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert any("max_loras 2: there is no entry for num_slices 2" in note for note in notes)


@pytest.mark.parametrize("kernel", ["lora_shrink", "lora_expand"])
def test_one_kernel_alone(place: Place, kernel: str) -> None:
    place("tune", "--kernel", kernel, "--budget", 4, "--sampler", "random")
    assert set(place.tables()) == {SHRINK_TABLE if kernel == "lora_shrink" else EXPAND_TABLE}


def test_without_storage_options_the_database_is_in_this_folder(cli: Cli, recordings: Path) -> None:
    ran = cli("tune", "--device", f"replay:{recordings}", "--budget", 3, "--sampler", "random")
    assert ran.code == 0
    assert len(stored_trials(Path("bo_tune.db"))) == 4
    assert Path("tuned", SHRINK_TABLE).exists()


@pytest.mark.parametrize(
    "program", [[str(Path(sys.executable).with_name("bo-tune"))], [sys.executable, "-m", "bo_tune"]]
)
def test_both_ways_to_start_it(program: list[str], tmp_path: Path, recordings: Path) -> None:
    arguments = ["tune", "--device", f"replay:{recordings}", "--storage", "memory", "--budget", "2"]
    done = subprocess.run(
        [*program, *arguments, "--sampler", "random"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "tuned" / SHRINK_TABLE).exists()


def test_the_shipped_study_of_the_recordings_replays(tmp_path: Path) -> None:
    options = ("--device", f"replay:{BUNDLED}", "--storage", "memory", "--budget", 10, "--out", tmp_path)
    ran = run_command("tune", ROOT / "studies" / "recorded.toml", *options, "--sampler", "random", cwd=tmp_path)
    assert (ran.code, ran.err) == (0, "")
    tables = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*[!e].json")}
    assert {name: len(leaves(table)) for name, table in tables.items()} == {SHRINK_TABLE: 4, EXPAND_TABLE: 4}


def test_experts_that_were_not_tuned_keep_what_an_engine_without_the_folder_runs(cli: Cli, tmp_path: Path) -> None:
    """A folder with dense files alone would have the engine run its experts with fixed defaults."""
    layers = ("--target-modules", "o_proj,experts", "--kernel", "lora_shrink", "--m", 16, "--tp", 1)
    model = ("--model", ROOT / "studies" / "models" / "mixtral-8x7b", "--max-loras", 4, "--rank", 16)
    device = ("--device", f"replay:{BUNDLED}", "--storage", "memory", "--budget", 5, "--out", tmp_path / "tuned")
    ran = cli("tune", *model, *layers, *device)
    assert ran.code == 0
    note = "note: the experts' adapters were not tuned: their files hold the configs that an engine without this "
    "folder runs"
    assert note in ran.out
    written = {path.name for path in (tmp_path / "tuned").glob("*.json") if "provenance" not in path.name}
    assert written == {f"{H100.file_name}_SHRINK.json", *GPU_FILES}
    table = read_table(tmp_path / "tuned" / GPU_FILES[0])
    assert table.configs["4", "2", "32", "16", "4096", "14336"]["block_m"] == 16
    assert table.configs["4", "2", "33", "16", "4096", "14336"]["block_m"] == 32
    again = cli("tune", *model, *layers, *device)
    assert again.code == 0
    assert "the experts' adapters were not tuned" not in again.out, "their entries are there"
