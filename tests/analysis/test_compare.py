"""A tuned folder against an exhaustive one."""

import json
from pathlib import Path

import pytest
from helpers import EXPAND, EXPAND_TABLE, SHRINK, SHRINK_BIG, SHRINK_TABLE, sliced

from bo_tune.analysis.compare import Comparisons, Side, compare
from bo_tune.core.choices import MEMORY
from bo_tune.engines.folder import write_tables
from bo_tune.engines.provenance import provenance_path
from bo_tune.errors import TableError
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import engine_spec
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

RECORDINGS = [sliced(SHRINK), sliced(SHRINK_BIG), sliced(EXPAND)]


def search(folder: Path, recordings: list[Recording], **settings: object) -> Path:
    session = Session(StudyStore(MEMORY), SessionSettings(**settings))  # type: ignore[arg-type]
    write_tables(folder, session.entries(session.run([replay_job(r) for r in recordings])))
    return folder


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(tmp_path_factory.mktemp("grid"), RECORDINGS, sampler="grid", budget=None)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    return search(tmp_path / "tuned", RECORDINGS, sampler="random", budget=6)


def by_keys(comparisons: Comparisons) -> dict[tuple[str, ...], object]:
    return {entry.keys: entry for entry in comparisons.entries}


def test_recorded_times_settle_both(tuned: Path, grid: Path) -> None:
    comparisons = compare(tuned, grid, RECORDINGS)
    assert len(comparisons.entries) == 3
    for recording in RECORDINGS:
        entry = by_keys(comparisons)[_keys(recording)]
        default_us = recording.time_us(engine_spec(recording.problem.kernel).default_config(recording.problem))
        for config, time_us in ((entry.tuned, entry.tuned_us), (entry.grid, entry.grid_us)):  # type: ignore[attr-defined]
            recorded = recording.entry(config)
            assert time_us == (recorded.time_us if recorded else default_us)
        assert entry.best_us == recording.best_time_us  # type: ignore[attr-defined]
        assert entry.default_us == default_us  # type: ignore[attr-defined]
        expected = 100 * (entry.tuned_us / recording.best_time_us - 1)  # type: ignore[attr-defined]
        assert entry.regret_percent == pytest.approx(expected)  # type: ignore[attr-defined]
    assert min(comparisons.regrets) >= 0


def _keys(recording: Recording) -> tuple[str, ...]:
    p = recording.problem
    return tuple(map(str, (p.max_loras + 1, p.num_slices, p.m, p.k, p.n)))


def test_without_recordings_the_searches_own_times_are_used(tuned: Path, grid: Path) -> None:
    comparisons = compare(tuned, grid)
    for entry in comparisons.entries:
        origins = json.loads(provenance_path(tuned / entry.file).read_text())["entries"]["/".join(entry.keys)]
        assert (entry.tuned_us, entry.default_us, entry.best_us) == (
            origins["time_us"], origins["default_time_us"], None
        )  # fmt: skip
        assert entry.tuned_us is not None
        assert entry.grid_us is not None
        assert entry.regret_percent == pytest.approx(100 * (entry.tuned_us / entry.grid_us - 1))


def test_totals_and_ratios_are_those_of_the_sidecars(tuned: Path, grid: Path) -> None:
    comparisons = compare(tuned, grid, RECORDINGS)
    for folder, totals in ((tuned, comparisons.tuned.totals), (grid, comparisons.grid.totals)):
        origins = [
            origin
            for file in (SHRINK_TABLE, EXPAND_TABLE)
            for origin in json.loads(provenance_path(folder / file).read_text())["entries"].values()
        ]
        for name in ("launched_configs", "launches", "compiles"):
            assert totals[name] == sum(origin["costs"][name] for origin in origins) > 0
        assert totals["wall_s"] == origins[0]["costs"]["session_wall_s"]  # one session, not three
    assert comparisons.tuned.totals["launched_configs"] == 18
    for name, ratio in comparisons.ratios.items():
        assert ratio == comparisons.grid.totals[name] / comparisons.tuned.totals[name]
    assert comparisons.ratios["launched_configs"] > 10


def test_a_folder_compared_with_itself_has_no_regret(grid: Path) -> None:
    comparisons = compare(grid, grid)
    assert comparisons.regrets == [0.0] * 3
    assert set(comparisons.ratios.values()) <= {1.0}
    assert comparisons.speed_up is not None
    assert comparisons.speed_up >= 1


def test_an_entry_of_one_folder_only_is_listed_without_regret(tmp_path: Path, grid: Path) -> None:
    tuned = search(tmp_path / "tuned", [sliced(SHRINK), sliced(SHRINK, m=32)], sampler="random", budget=6)
    entries = by_keys(compare(tuned, grid))
    assert len(entries) == 4
    only_tuned, only_grid = entries[_keys(sliced(SHRINK, m=32))], entries[_keys(sliced(EXPAND))]
    assert (only_tuned.grid, only_tuned.grid_us, only_tuned.regret_percent) == (None, None, None)  # type: ignore[attr-defined]
    assert (only_grid.tuned, only_grid.tuned_us, only_grid.regret_percent) == (None, None, None)  # type: ignore[attr-defined]
    assert only_grid.grid_us is not None  # type: ignore[attr-defined]


def test_costs_are_those_of_the_entries_that_both_have(tmp_path: Path, grid: Path) -> None:
    both = search(tmp_path / "both", [sliced(SHRINK), sliced(SHRINK, m=32)], sampler="random", budget=6)
    comparisons = compare(both, grid)
    assert comparisons.common == 1
    for folder, totals in ((both, comparisons.tuned.totals), (grid, comparisons.grid.totals)):
        origin = json.loads(provenance_path(folder / SHRINK_TABLE).read_text())["entries"][
            "/".join(_keys(sliced(SHRINK)))
        ]
        for name in ("launched_configs", "launches", "compiles"):
            assert totals[name] == origin["costs"][name]
        # The sessions found other entries beside: how long they took is not what this one took.
        assert "wall_s" not in totals
    assert set(comparisons.ratios) <= {"launched_configs", "launches", "compiles", "compile_s"}


def test_what_each_side_is_is_told_by_its_sidecars(tuned: Path, grid: Path) -> None:
    comparisons = compare(tuned, grid)
    assert (str(comparisons.tuned), str(comparisons.grid)) == ("search by random", "exhaustive search")
    assert comparisons.is_regret
    other = compare(grid, tuned)
    assert not other.is_regret
    assert compare(grid, tuned, RECORDINGS).is_regret
    assert other.to_json()["searches"] == {"tuned": "exhaustive search", "grid": "search by random"}


def test_tables_without_sidecars_are_compared_by_their_configs(tmp_path: Path, tuned: Path, grid: Path) -> None:
    for path in tuned.glob("*.provenance.json"):
        path.unlink()
    comparisons = compare(tuned, grid)
    assert [entry.tuned_us for entry in comparisons.entries] == [None] * 3
    assert (comparisons.tuned, comparisons.ratios) == (Side(), {})
    assert str(comparisons.tuned) == "search of unknown origin"
    assert len(compare(tuned, grid, RECORDINGS).regrets) == 3


def test_a_sidecar_of_another_config_says_nothing_of_this_one(tuned: Path, grid: Path) -> None:
    path = tuned / EXPAND_TABLE
    table = json.loads(path.read_text())
    table["5"]["2"]["64"]["32"]["14336"]["num_stages"] = 99
    path.write_text(json.dumps(table))
    entry = by_keys(compare(tuned, grid))[_keys(sliced(EXPAND))]
    assert entry.tuned_us is None  # type: ignore[attr-defined]


def test_the_json_holds_everything(tuned: Path, grid: Path) -> None:
    comparisons = compare(tuned, grid, RECORDINGS)
    document = json.loads(json.dumps(comparisons.to_json(), allow_nan=False))
    assert set(document["entries"][0]) == {
        "file", "keys", "tuned", "grid", "tuned_us", "grid_us", "best_us", "default_us", "regret_percent",
        "counted_in",
    }  # fmt: skip
    assert document["common_entries"] == 3
    assert set(document["totals"]) == {"tuned", "grid", "grid_over_tuned"}
    for side in ("tuned", "grid"):
        assert {"launched_configs", "launches", "compiles", "wall_s"} <= set(document["totals"][side])
    regrets = [entry["regret_percent"] for entry in document["entries"]]
    assert document["mean_regret_percent"] == pytest.approx(sum(regrets) / 3)
    assert document["max_regret_percent"] == max(regrets)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("", "not JSON"), ("[]", "expected an object"), ('{"5": {"1": 3}}', "expected a non-empty object")],
)
def test_a_malformed_table_is_named(tuned: Path, grid: Path, content: str, expected: str) -> None:
    (tuned / SHRINK_TABLE).write_text(content)
    with pytest.raises(TableError, match=expected) as caught:
        compare(tuned, grid)
    assert SHRINK_TABLE in str(caught.value)
