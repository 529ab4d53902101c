"""Whose kernels entries were tuned with: said, never mixed in silence, and an engine's never given up by default."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import engine_first, write_tables
from bo_tune.engines.provenance import Provenance, is_own, provenance_path
from bo_tune.engines.tuned_with import UNKNOWN, check_mix, folder_lines, source_counts
from bo_tune.errors import TableError

NAME = "GPU_SHRINK.json"
OWN, VLLM, NEWER = "bo_tune 25606b8fe2", "vllm 0.33.0", "vllm 0.34.0 (two-kernel path: no TMA, no PDL)"
CONFIG = {"block_m": 16, "split_k": 8}


def entry(m: int, source: str, date: str = "2026-01-01") -> TunedEntry:
    problem = LoraProblem("lora_shrink", 4, 1, m, 4096, 16)
    origin = Provenance(problem, CONFIG, 5.0, 6.0, "GPU", "1", "2", "3", source, date, "study", "grid-gp", "s", {})
    return TunedEntry("GPU_SHRINK.json", ("5", "1", str(m), "4096", "16"), CONFIG, origin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a vLLM's entries."""
    write_tables(tmp_path, [entry(1, VLLM), entry(2, VLLM)])
    return tmp_path


def test_sources_are_told_apart_by_whose_code_it_is() -> None:
    assert [is_own(source) for source in (OWN, VLLM, NEWER, "bo_tuned 1", "", UNKNOWN)] == [True] + [False] * 5


def test_the_sidecar_names_the_kernels(folder: Path) -> None:
    write_tables(folder, [entry(4, OWN)])
    entries = json.loads(provenance_path(folder / NAME).read_text())["entries"]
    assert [one["kernels"] for one in entries.values()] == [VLLM, VLLM, "bo_tune (not an engine's)"]
    assert [one["kernel_source"] for one in entries.values()] == [VLLM, VLLM, OWN]


def test_own_kernels_are_refused_beside_an_engines_unless_they_are_asked_for(folder: Path) -> None:
    with pytest.raises(TableError) as refused:
        check_mix(folder, {NAME: {OWN}}, own_wanted=False)
    message = str(refused.value)
    assert message.startswith(f"{folder / NAME} has entries of {VLLM}; do not mix them with entries of bo_tune's own")
    assert "another --out" in message
    assert "--kernels builtin" in message
    (warning,) = check_mix(folder, {NAME: {OWN}}, own_wanted=True)
    assert warning == (
        f"{folder / NAME} has entries of {VLLM}; entries of bo_tune's own kernels, which no engine runs, are being "
        "mixed in"
    )


def test_entries_of_unknown_origin_may_be_an_engines(folder: Path) -> None:
    provenance_path(folder / NAME).unlink()
    with pytest.raises(TableError, match=UNKNOWN):
        check_mix(folder, {NAME: {OWN}}, own_wanted=False)


def test_an_engines_go_where_own_ones_are_with_a_warning(tmp_path: Path) -> None:
    write_tables(tmp_path, [entry(1, OWN), entry(2, OWN), entry(4, VLLM)])
    (warning,) = check_mix(tmp_path, {NAME: {VLLM}}, own_wanted=False)
    assert warning.startswith(f"{tmp_path / NAME}: 2 entries were tuned with bo_tune's own kernels")


@pytest.mark.parametrize("source", [OWN, VLLM])
def test_equals_go_together(source: str, tmp_path: Path) -> None:
    assert check_mix(tmp_path, {NAME: {source}}, own_wanted=False) == []
    write_tables(tmp_path, [entry(1, source)])
    assert check_mix(tmp_path, {NAME: {source}}, own_wanted=False) == []
    assert check_mix(tmp_path / "missing", {NAME: {source}}, own_wanted=False) == []


def test_both_at_once_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="has entries of vllm"):
        check_mix(tmp_path, {NAME: {OWN, VLLM}}, own_wanted=False)
    assert len(check_mix(tmp_path, {NAME: {OWN, VLLM}}, own_wanted=True)) == 1


def test_a_folder_says_whose_kernels_it_was_tuned_with(folder: Path) -> None:
    assert folder_lines(folder) == [f"tuned with {VLLM}"]
    write_tables(folder, [entry(4, OWN), replace(entry(8, OWN), file_name="OTHER_SHRINK.json")])
    assert source_counts(folder) == {NAME: {VLLM: 2, OWN: 1}, "OTHER_SHRINK.json": {OWN: 1}}
    assert folder_lines(folder) == [
        f"tuned with bo_tune's own kernels and {VLLM}",
        f"{NAME}: 1 entry was tuned with bo_tune's own kernels, which no engine runs, and 2 of {VLLM}",
        "OTHER_SHRINK.json: 1 entry was tuned with bo_tune's own kernels, which no engine runs",
    ]


def test_a_sidecar_that_cannot_be_read_is_no_more_than_a_line(folder: Path) -> None:
    provenance_path(folder / NAME).write_text("[")
    (line,) = folder_lines(folder)
    assert line.startswith(f"{provenance_path(folder / NAME)}: not JSON")
    provenance_path(folder / NAME).unlink()
    assert (folder_lines(folder), source_counts(folder)) == ([], {})


DATES = st.sampled_from(["2026-01-01", "2026-01-02", "2026-01-03"])


def origin(source: str, date: str) -> dict[str, str]:
    """What of a sidecar's entry decides."""
    return {"kernel_source": source, "date": date}


@given(own=DATES, engine=DATES, later=DATES)
def test_an_engines_entry_outranks_every_own_one_and_then_the_later_counts(own: str, engine: str, later: str) -> None:
    assert engine_first(origin(VLLM, engine)) > engine_first(origin(OWN, own))
    assert (engine_first(origin(VLLM, later)) >= engine_first(origin(NEWER, engine))) == (later >= engine)
    assert (engine_first(origin(OWN, later)) >= engine_first(origin(OWN, own))) == (later >= own)
    assert engine_first({}) < engine_first(origin(OWN, own))
