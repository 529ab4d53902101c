"""Checking tuned JSON: every planted fault is found and named, and nothing else is."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import EXPAND_TABLE, H100, ROOT, SHRINK_TABLE

from bo_tune.check import Report, check_folder, structure_faults
from bo_tune.errors import TableError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.models import ModelStudy
from bo_tune.models.engine import CAPTURE_SIZES, MAX_SEQUENCES
from bo_tune.problem import Problem
from bo_tune.tables import table_file_name

LLAMA = ROOT / "studies" / "models" / "llama-3.1-8b"
MODEL = ModelStudy.of(str(LLAMA), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[1, 16, 256, 1024, 8192])
Documents = dict[str, dict[str, Any]]


def documents(model: ModelStudy = MODEL, gpu: str = H100.file_name) -> Documents:
    """Return the files that hold a good entry for every problem of a model."""
    files: Documents = {}
    for problem in model.problems_by_layer():
        spec = kernel_spec(problem.kernel)
        level = files.setdefault(table_file_name(gpu, spec.file_stem(problem)), {})
        *above, last = spec.table_key(problem)
        for key in above:
            level = level.setdefault(key, {})
        level[last] = spec.default_config(problem)
    return files


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, document in files.items():
        (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


def checked(folder: Path, change: Callable[[Documents], object] = lambda files: None, **more: Any) -> Report:
    files = copy.deepcopy(documents())
    change(files)
    return check_folder(write(folder, files), MODEL, **{"gpu": H100.name, **more})


def reasons(report: Report) -> list[str]:
    return [f"{fault.file} {fault.place}: {fault.reason}" for fault in report.faults]


def shrink(*keys: str) -> Callable[[Documents], dict[str, Any]]:
    def level(files: Documents) -> dict[str, Any]:
        found: dict[str, Any] = files[SHRINK_TABLE]
        for key in keys:
            found = found[key]
        return found

    return level


def test_what_bo_tune_writes_passes(tmp_path: Path) -> None:
    report = checked(tmp_path)
    assert not report.faults
    assert report.count("fault") == 0
    asked = {item.problem.m for item in report.lookups}
    assert {*CAPTURE_SIZES, 1024, 6144, 8192} <= asked
    assert max(item.problem.m for item in report.lookups if "lm_head" in item.layers and item.asked["n"] > 1e5) == (
        MAX_SEQUENCES
    )
    exact = {item.problem.m for item in report.lookups if item.status == "exact"}
    assert exact == {1, 16, 256, 1024, 8192}
    by_m = {item.problem.m: item.nearest_m for item in report.lookups if item.asked["n"] == 14336}
    assert (by_m[8], by_m[24], by_m[136], by_m[144], by_m[6144]) == (1, 16, 16, 256, 8192)


def swap_k_and_n(files: Documents) -> None:
    for slices in files[SHRINK_TABLE]["5"].values():
        for m, level in slices.items():
            slices[m] = {
                n: dict.fromkeys(level, config) for config_of in level.values() for n, config in config_of.items()
            }


def off_by_one(files: Documents) -> None:
    files[SHRINK_TABLE] = {"4": files[SHRINK_TABLE]["5"]}


PLANTED: dict[str, tuple[Callable[[Documents], object], list[str]]] = {
    "missing num_slices": (
        lambda files: shrink("5")(files).pop("2"),
        [f"{SHRINK_TABLE} 5/2: no entry for num_slices 2: a KeyError in the engine"],
    ),
    "off-by-one max_loras": (
        off_by_one,
        [
            f"{SHRINK_TABLE} 5: no entry for max_loras 5: takes the one for max_loras 4; "
            "an engine with --max-loras 4 asks for one more"
        ],
    ),
    "swapped k and n": (
        swap_k_and_n,
        [
            f"{SHRINK_TABLE} 5/{slices}/*/{k}: no entry for k {k}: takes the one for k 16; k and n are swapped"
            for slices, k in ((1, 4096), (1, 14336), (2, 4096), (3, 4096))
        ],
    ),
    "a non-numeric key": (
        lambda files: shrink("5", "1")(files).update(version={"torch": {"x": {"block_m": 16}}}),
        [
            f"{SHRINK_TABLE} 5/1/version: the m key 'version' is no number: int() fails in the engine",
            f"{SHRINK_TABLE} 5/1/version/torch: the k key 'torch' is no number: int() fails in the engine",
            f"{SHRINK_TABLE} 5/1/version/torch/x: the n key 'x' is no number: int() fails in the engine",
        ],
    ),
    "metadata beside the keys": (
        lambda files: files[SHRINK_TABLE].update(triton_version="3.6"),
        [f"{SHRINK_TABLE} triton_version: the max_loras key 'triton_version' is no number: int() fails in the engine"],
    ),
    "a missing file": (
        lambda files: files.pop(SHRINK_TABLE), [f"{SHRINK_TABLE} : no such file: the engine takes its default configs"]
    ),
    "shared memory": (
        lambda files: shrink("5", "1", "16", "4096", "16")(files).update(
            block_m=256, block_k=256, split_k=4, num_stages=4
        ),
        [f"{SHRINK_TABLE} 5/1/16/4096/16: needs"],
    ),
    "a missing n": (
        lambda files: files[EXPAND_TABLE]["5"]["1"]["256"]["16"].pop("128256"),
        [f"{EXPAND_TABLE} 5/1/*/16/128256: no entry for n 128256: takes the one for n 4096"],
    ),
    "upper-case parameters": (
        lambda files: shrink("5", "3", "1", "4096")(files).update({"16": {"BLOCK_SIZE_M": 16}}),
        [
            f"{SHRINK_TABLE} 5/3/1/4096/16: no block_m: a KeyError in the engine; "
            "BLOCK_SIZE_M is read by the fused MoE kernels only"
        ],
    ),
    "another tool's values": (
        lambda files: shrink("5", "3", "1", "4096", "16")(files).update(num_warps="4"),
        [
            f'{SHRINK_TABLE} 5/3/1/4096/16: num_warps: expected an integer, got "4"',
            f'{SHRINK_TABLE} 5/3/1/4096/16: num_warps: expected an integer >= 1, got "4"',
        ],
    ),
    "no power of two": (
        lambda files: shrink("5", "3", "1", "4096", "16")(files).update(block_n=48),
        [f"{SHRINK_TABLE} 5/3/1/4096/16: block_n: expected a power of two, got 48"],
    ),
    "no config": (
        lambda files: shrink("5", "3", "1", "4096")(files).update({"16": []}),
        [
            f"{SHRINK_TABLE} 5/3/1/4096/16: expected an object below the n key, got []",
            f"{SHRINK_TABLE} 5/3/1/4096/16: expected a config, got []",
        ],
    ),
    "an empty file": (
        lambda files: files.update({SHRINK_TABLE: {}}), [f"{SHRINK_TABLE} : holds nothing: the engine takes its"]
    ),
    "a list": (lambda files: files.update({SHRINK_TABLE: [1]}), [f"{SHRINK_TABLE} : expected an object of max_loras"]),
    "text": (lambda files: files.update({SHRINK_TABLE: '"5"'}), [f"{SHRINK_TABLE} : expected an object of max_loras"]),
    "cut JSON": (lambda files: files.update({SHRINK_TABLE: '{"5": '}), [f"{SHRINK_TABLE} : not JSON: "]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(tmp_path: Path, name: str) -> None:
    change, expected = PLANTED[name]
    report = checked(tmp_path, change)
    found = reasons(report)
    assert len(found) == len(expected), found
    for place_and_reason in expected:
        assert [line for line in found if line.startswith(place_and_reason)], (place_and_reason, found)
    assert all("\n" not in line for line in found)
    assert all(fault.file in (SHRINK_TABLE, EXPAND_TABLE) for fault in report.faults)


def test_metadata_stops_no_engine_whose_max_loras_is_there(tmp_path: Path) -> None:
    report = checked(tmp_path, PLANTED["metadata beside the keys"][0])
    assert report.count("fault") == 0


def test_an_entry_missing_at_one_m_is_a_fault_at_the_m_near_it(tmp_path: Path) -> None:
    report = checked(tmp_path, lambda files: shrink("5", "1", "256")(files).pop("14336"))
    ((fault, met),) = report.faults.items()
    assert fault.reason == "no entry for k 14336: takes the one for k 4096"
    assert {item.problem.m for item in met} == {m for m in CAPTURE_SIZES if m > 136}


def test_only_the_m_that_are_named(tmp_path: Path) -> None:
    report = checked(tmp_path, ms=[100])
    assert {item.problem.m for item in report.lookups} == {100}
    assert {item.nearest_m for item in report.lookups} == {16}


def test_the_files_own_m_are_tried(tmp_path: Path) -> None:
    report = checked(tmp_path, lambda files: shrink("5", "2")(files).update({"700": {"16": {"16": {}}}}))
    assert any(item.problem.m == 700 and item.status == "fault" for item in report.lookups)


def test_the_gpu_is_told_from_the_folder(tmp_path: Path) -> None:
    report = checked(tmp_path, gpu=None)
    assert (report.gpu_file_name, report.gpu) == (H100.file_name, H100)
    write(tmp_path, documents(gpu="NVIDIA_H100_80GB_HBM3_MIG"))
    assert not checked(tmp_path).faults
    with pytest.raises(TableError, match="files of NVIDIA_H100_80GB_HBM3, NVIDIA_H100_80GB_HBM3_MIG in this folder"):
        checked(tmp_path, gpu=None)


def test_of_a_gpu_that_is_not_known_no_limit_is_assumed(tmp_path: Path) -> None:
    write(tmp_path, documents(gpu="NVIDIA_Z1"))
    report = check_folder(tmp_path, MODEL)
    assert (report.gpu_file_name, report.gpu) == ("NVIDIA_Z1", None)


def test_a_folder_without_tables(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="name the GPU with --gpu"):
        check_folder(tmp_path, MODEL)
    report = check_folder(tmp_path, MODEL, gpu=H100.name)
    assert {fault.file for fault in report.faults} == {SHRINK_TABLE, EXPAND_TABLE}
    assert report.count("fault") == len(report.lookups)
    with pytest.raises(TableError, match="nowhere: No such file"):
        check_folder(tmp_path / "nowhere", MODEL)


def test_the_rank_of_the_engine_and_its_sharding_decide(tmp_path: Path) -> None:
    write(tmp_path, documents())
    other = check_folder(tmp_path, replace(MODEL, ranks=(32,)), gpu=H100.name)
    assert any(fault.reason.startswith("no entry for n 32: takes the one for n 16") for fault in other.faults)
    sharded = check_folder(tmp_path, replace(MODEL, tensor_parallel=2), gpu=H100.name)
    assert any("no entry for k 2048" in fault.reason for fault in sharded.faults)
    narrow = check_folder(tmp_path, replace(MODEL, target_modules=("o_proj",)), gpu=H100.name)
    assert not narrow.faults


def test_stages_that_expand_does_not_use_cost_no_shared_memory(tmp_path: Path) -> None:
    def many_stages(files: Documents) -> None:
        entry = files[EXPAND_TABLE]["5"]["1"]["256"]["16"]["4096"]
        entry.update(block_m=128, block_n=64, block_k=128, num_stages=4)
        problem = Problem("lora_expand", 4, 1, 256, 128, 4096)
        assert kernel_spec("lora_expand").impossible(entry, problem, H100)

    assert not checked(tmp_path, many_stages).faults


MOE = "NVIDIA_H100_80GB_HBM3_FUSED_MOE_LORA_W13_SHRINK.json"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"4": {"2": {"16": {"16": {"2048": {"768": {"BLOCK_SIZE_M": 64}}}}}}}, []),
        ({"4": {"2": {"16": {"16": {"2048": {"BLOCK_SIZE_M": 64}}}}}}, ["the i key 'BLOCK_SIZE_M' is no number"]),
        ({"4": {"2": {"16": {"16": {"2048": {"x": {"block_m": 64}}}}}}}, ["the i key 'x' is no number"]),
        ({"4": {"2": {}}}, ["expected an object below the num_slices key, got {}"]),
        ({"4": {"2": {"16": {"16": {"2048": {"768": {"block_m": {}}}}}}}}, ["block_m: expected an integer, got {}"]),
    ],
)
def test_the_structure_of_files_with_another_level(document: dict[str, Any], expected: list[str]) -> None:
    found = [fault.reason for fault in structure_faults(MOE, document)]
    assert len(found) == len(expected)
    assert all(reason.startswith(start) for reason, start in zip(found, expected, strict=True))


def test_experts_are_said_not_to_be_walked(tmp_path: Path) -> None:
    mixtral = ModelStudy.of(
        str(ROOT / "studies" / "models" / "mixtral-8x7b"), tensor_parallel=2, ranks=[16], max_loras=[2], ms=[64]
    )
    dense = {name: content for name, content in documents(mixtral).items() if "MOE" not in name}
    report = check_folder(write(tmp_path, dense), mixtral, gpu=H100.name)
    assert report.has_experts
    assert not report.faults


QWEN_3 = ModelStudy.of(
    str(ROOT / "studies" / "models" / "qwen3-30b-a3b"),
    tensor_parallel=1,
    ranks=[16],
    max_loras=[4],
    ms=[16, 256],
    target_modules=["o_proj", "experts"],
)
W2_EXPAND = f"{H100.file_name}_FUSED_MOE_LORA_W2_EXPAND.json"


def checked_experts(tmp_path: Path, change: Callable[[Documents], object] = lambda files: None) -> Report:
    files = documents(QWEN_3)
    change(files)
    return check_folder(write(tmp_path, files), QWEN_3, gpu=H100.name)


def test_lookups_of_experts_are_walked_where_there_are_files_of_theirs(tmp_path: Path) -> None:
    report = checked_experts(tmp_path)
    assert not report.has_experts
    assert not report.faults
    walked = {item.problem.kernel for item in report.lookups}
    assert len([kernel for kernel in walked if "moe" in kernel]) == 4
    assert {len(item.asked) for item in report.lookups if "moe" in item.problem.kernel} == {6}


def test_another_block_m_than_the_first_kernels_is_a_fault(tmp_path: Path) -> None:
    def change(files: Documents) -> None:
        files[W2_EXPAND]["4"]["1"]["256"]["16"]["2048"]["768"]["block_m"] = 16

    report = checked_experts(tmp_path, change)
    (fault,) = report.faults
    assert fault.file == W2_EXPAND
    assert fault.place == "4/1/256/16/2048/768"
    assert fault.reason.startswith("block_m 16, where fused_moe_lora_w13_shrink has 64")


def test_names_in_capitals_and_names_left_out_are_read_as_the_engine_does(tmp_path: Path) -> None:
    def change(files: Documents) -> None:
        for m in ("16", "256"):
            files[W2_EXPAND]["4"]["1"][m]["16"]["2048"]["768"] = {"BLOCK_SIZE_M": 64, "NUM_WARPS": 8}

    assert not checked_experts(tmp_path, change).faults


def test_a_file_of_three_or_fewer_kernels_leaves_the_others_without(tmp_path: Path) -> None:
    report = checked_experts(tmp_path, lambda files: files.pop(W2_EXPAND))
    assert [fault.reason for fault in report.faults] == ["no such file: the engine takes its default configs"]
