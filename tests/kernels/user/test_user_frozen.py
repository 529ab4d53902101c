"""Tables of winners: written by whoever tunes, read by whoever runs; and the rule that finds the nearest entry."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from typing import Any

import pytest
import user_kernels
from decorated_kernels import affine
from helpers import PATIENCE_S, ROOT, FakeDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from user_kernels import add_scaled

import bo_tune
from bo_tune.kernels.user import frozen
from bo_tune.kernels.user.spec import UserSpec
from bo_tune.processes.importing import import_source

GPU = "NVIDIA H100 80GB HBM3"
BASE = {"BLOCK": 128, "CLAMP": True, "MODE": "single", "num_warps": 4, "OFF": -1}


@dataclass(frozen=True)
class Found:
    """As much of a ``Best`` as a table keeps."""

    problem: dict[str, Any]
    config: dict[str, Any]
    kernel: str = "add_scaled"
    gpu: str = GPU
    time_us: float = 2.0
    default_time_us: float | None = 3.0
    study: str = "add_scaled | …"


def at(n: int, skip: int = 0, dtype: str = "float32", **config: Any) -> Found:
    return Found({"n": n, "skip": skip, "dtype": dtype}, {**BASE, **config})


def looked_up(table: Path, n: int, skip: int = 0, dtype: str = "float32", **more: Any) -> dict[str, Any]:
    return bo_tune.best(add_scaled, {"n": n, "skip": skip, "dtype": dtype}, table, **{"gpu": GPU, **more})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "own.json"
    bo_tune.freeze([at(1024, BLOCK=64), at(65536, BLOCK=256), at(1024, dtype="float16", MODE="double")], path)
    return path


def test_what_was_tuned_is_frozen_and_found(tmp_path: Path) -> None:
    split_k: bo_tune.Operation = import_source(str(ROOT / "examples" / "split_k.py")).split_k
    space = UserSpec(split_k, frozenset("MNK")).search_space
    on = FakeDevice(lambda config: 10.0 + abs(log2(config["SPLIT_K"] / 4)) + abs(config["num_warps"] - 8), space)
    sizes = {"M": 16, "N": 512, "K": 4096}
    found = bo_tune.tune(split_k, [sizes], device=on, sampler="random", budget=None, stop=False)
    bo_tune.freeze(found, tmp_path / "split_k.json")
    read = bo_tune.best(split_k, sizes, tmp_path / "split_k.json", gpu=found[0].gpu)
    assert read == found[0].config
    assert (read["SPLIT_K"], read["num_warps"]) == (4, 8)
    (entry,) = json.loads((tmp_path / "split_k.json").read_text())["kernels"]["split_k"][GPU]
    assert entry["sizes"] == sizes
    assert entry["study"] == found[0].study


def test_the_very_sizes_come_first_whatever_their_order(table: Path) -> None:
    assert looked_up(table, 65536)["BLOCK"] == 256
    assert bo_tune.best(add_scaled, {"dtype": "float16", "skip": 0, "n": 1024}, table, gpu=GPU)["MODE"] == "double"


@pytest.mark.parametrize(("n", "block"), [(1, 64), (4096, 64), (8191, 64), (8193, 256), (10**7, 256)])
def test_the_nearest_sizes_are_those_of_the_least_ratio(table: Path, n: int, block: int) -> None:
    assert looked_up(table, n)["BLOCK"] == block


def test_of_two_as_near_the_first_of_the_table_counts_which_is_sorted(table: Path) -> None:
    assert looked_up(table, 8192)["BLOCK"] == 64


def test_words_must_be_the_same(table: Path) -> None:
    assert looked_up(table, 65536, dtype="float16")["MODE"] == "double"
    default = dict(add_scaled.default_params(frozen.SizedProblem("add_scaled", (("n", 1),))))
    assert looked_up(table, 1024, dtype="bfloat16") == default
    assert bo_tune.best(add_scaled, {"n": 1024}, table, gpu=GPU) == default


@settings(max_examples=50, deadline=None)
@given(
    known=st.lists(st.tuples(st.integers(1, 10**6), st.integers(-5, 5)), min_size=1, max_size=6, unique=True),
    n=st.integers(1, 10**6),
    skip=st.integers(-5, 5),
)
def test_no_entry_is_nearer_than_the_one_that_is_found(
    known: list[tuple[int, int]], n: int, skip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def distance(one: tuple[int, int]) -> float:
        apart = abs(log2(one[1] / skip)) if one[1] > 0 and skip > 0 else abs(one[1] - skip)
        return abs(log2(one[0] / n)) + apart

    path = tmp_path_factory.mktemp("frozen") / "own.json"
    bo_tune.freeze([at(*one, BLOCK=64 + place) for place, one in enumerate(known)], path)
    found = known[looked_up(path, n, skip)["BLOCK"] - 64]
    assert distance(found) == min(map(distance, known))


def test_a_config_that_is_not_valid_for_the_sizes_is_passed_over(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picky = replace(add_scaled, valid=lambda sizes, config: config["BLOCK"] <= sizes["n"] // 16)
    sizes = {"n": 2048, "skip": 0, "dtype": "float32"}
    assert bo_tune.best(picky, sizes, table, gpu=GPU)["BLOCK"] == 64
    fussy = replace(add_scaled, valid=lambda sizes, config: config["BLOCK"] > 64)
    assert bo_tune.best(fussy, sizes, table, gpu=GPU)["BLOCK"] == 256
    none = replace(add_scaled, valid=lambda sizes, config: config["BLOCK"] == 128)
    assert bo_tune.best(none, sizes, table, gpu=GPU)["BLOCK"] == 128


def test_what_to_do_without_the_very_sizes_is_the_caller_s_to_say(table: Path) -> None:
    assert looked_up(table, 1025, on_miss="default")["BLOCK"] == 128
    with pytest.raises(bo_tune.InputError, match=r"no entry for add_scaled n=1025.skip=0.dtype=float32 on NVIDIA H100"):
        looked_up(table, 1025, on_miss="error")
    assert looked_up(table, 1024, gpu="another GPU")["BLOCK"] == 128
    with pytest.raises(bo_tune.InputError, match="on_miss: expected one of nearest, default, error, got 'tune'"):
        looked_up(table, 1024, on_miss="tune")


def test_freezing_again_replaces_the_same_sizes_and_keeps_the_rest(table: Path) -> None:
    other = Found({"rows": 1}, {"A": 1}, kernel="other")
    bo_tune.freeze([at(1024, BLOCK=256), other, replace(at(1024), gpu="another GPU")], table)
    assert [looked_up(table, n)["BLOCK"] for n in (1024, 65536)] == [256, 256]
    kernels = json.loads(table.read_text())["kernels"]
    assert {kernel: {gpu: len(entries) for gpu, entries in gpus.items()} for kernel, gpus in kernels.items()} == {
        "add_scaled": {GPU: 3, "another GPU": 1}, "other": {GPU: 1}
    }  # fmt: skip


def test_values_that_json_has_no_form_for_come_back(tmp_path: Path) -> None:
    config = {**affine.default, "SHAPE": (4, None), "TYPE": affine.values["TYPE"].values[1], "maxnreg": 32}  # type: ignore[dict-item]
    sizes = {"n": 100, "bias": True}
    bo_tune.freeze([Found(sizes, config, kernel="affine")], tmp_path / "own.json")
    assert bo_tune.best(affine, sizes, tmp_path / "own.json", gpu=GPU) == config
    assert bo_tune.best(affine, {"n": 100, "bias": False}, tmp_path / "own.json", gpu=GPU) == affine.default


def test_a_table_is_read_once_and_what_is_handed_out_is_the_caller_s(table: Path) -> None:
    looked_up(table, 1024)["BLOCK"] = 7
    table.unlink()
    assert looked_up(table, 1024)["BLOCK"] == 64
    assert looked_up(table, 3000)["BLOCK"] == 64


def test_a_table_beside_the_module_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_kernels, "__file__", str(tmp_path / "user_kernels.py"))
    bo_tune.freeze([at(1024, BLOCK=64)], tmp_path / "user_kernels.tuned.json")
    assert bo_tune.best(add_scaled, {"n": 1000, "skip": 0, "dtype": "float32"}, gpu=GPU)["BLOCK"] == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "own.json: expected a table that bo_tune wrote: not JSON: "),
        ("[]", "own.json: expected a table that bo_tune wrote: the whole file: "),
        ('{"kernels": 3}', r"own.json: expected a table that bo_tune wrote: kernels: .*, got 3"),
        ('{"format": "2", "kernels": {}}', "own.json: expected a table that bo_tune wrote: format: "),
        ('{"kernels": {"add_scaled": {"G": [{"sizes": {}}]}}}', r"kernels.add_scaled.G.0.config: Field required"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(content)
    for use in (lambda: looked_up(path, 1), lambda: bo_tune.freeze([at(1)], path)):
        with pytest.raises(bo_tune.InputError, match=message) as raised:
            use()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", [{"BLOC": 3}, {"MODE": "triple"}, {"BLOCK": "64"}])
def test_a_config_that_the_kernel_has_no_more_is_told(change: dict[str, Any], tmp_path: Path) -> None:
    bo_tune.freeze([at(1024, **change)], tmp_path / "own.json")
    with pytest.raises(
        bo_tune.InputError, match="the kernel has changed since it was tuned; tune it again, and freeze the result"
    ):
        looked_up(tmp_path / "own.json", 1024)


def test_a_file_that_is_not_there_or_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(bo_tune.InputError, match=r"missing.json: No such file"):
        looked_up(tmp_path / "missing.json", 1)
    with pytest.raises(bo_tune.InputError, match="expected a number, a truth value or a word as a size"):
        bo_tune.best(add_scaled, {"n": None}, tmp_path / "missing.json", gpu=GPU)  # type: ignore[dict-item]
    (tmp_path / "file").write_text("")
    with pytest.raises(bo_tune.InputError, match=r"Not a directory|File exists"):
        bo_tune.freeze([at(1)], tmp_path / "file" / "own.json")


@pytest.mark.slow
def test_reading_a_table_loads_no_database_and_no_search() -> None:
    code = "import sys, bo_tune; bo_tune.best; print(sorted(m for m in sys.modules if m.split('.')[0] in HEAVY))"
    code = code.replace("HEAVY", "('optuna', 'sqlalchemy', 'rich', 'scipy', 'typer')")
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout
    assert shown == "[]\n"
