"""Checking tuned JSON: every planted fault is found and named, and nothing else is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import EXPAND_TABLE, H100, ROOT, SHRINK_TABLE
from tuned_folder import MODEL, Documents, checked, documents, qwen, reasons, shrink, write

from bo_tune.core.problem import LoraProblem
from bo_tune.engines.check import check_folder
from bo_tune.engines.models.engine import CAPTURE_SIZES, MAX_SEQUENCES
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.errors import TableError
from bo_tune.kernels.registry import kernel_spec


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
            f"{SHRINK_TABLE} 5: no entry for max_loras 5, so max_loras 4 is used; an engine with "
            "--max-loras 4 looks up one more"
        ],
    ),
    "swapped k and n": (
        swap_k_and_n,
        [
            f"{SHRINK_TABLE} 5/{slices}/*/{k}: no entry for k {k}, so k 16 is used; k and n are swapped"
            for slices, k in ((1, 4096), (1, 14336), (2, 4096), (3, 4096))
        ],
    ),
    "a non-numeric key": (
        lambda files: shrink("5", "1")(files).update(version={"torch": {"x": {"block_m": 16}}}),
        [
            f"{SHRINK_TABLE} 5/1/version: the m key 'version' is not a number: int() fails in the engine",
            f"{SHRINK_TABLE} 5/1/version/torch: the k key 'torch' is not a number: int() fails in the engine",
            f"{SHRINK_TABLE} 5/1/version/torch/x: the n key 'x' is not a number: int() fails in the engine",
            f"{SHRINK_TABLE} 5/1/version/torch/x: block_n is missing: a KeyError in the engine",
        ],
    ),
    "metadata beside the keys": (
        lambda files: files[SHRINK_TABLE].update(triton_version="3.6"),
        [f"{SHRINK_TABLE} triton_version: the max_loras key 'triton_version' is not a number: int() fails in the "
        "engine"],
    ),
    "a missing file": (
        lambda files: files.pop(SHRINK_TABLE), [f"{SHRINK_TABLE} : the file does not exist: the engine uses its "
        "default configs"]
    ),
    "shared memory": (
        lambda files: shrink("5", "1", "16", "4096", "16")(files).update(
            block_m=256, block_k=256, split_k=4, num_stages=4
        ),
        [f"{SHRINK_TABLE} 5/1/16/4096/16: it needs"],
    ),
    "a missing n": (
        lambda files: files[EXPAND_TABLE]["5"]["1"]["256"]["16"].pop("128256"),
        [f"{EXPAND_TABLE} 5/1/*/16/128256: no entry for n 128256, so n 4096 is used"],
    ),
    "upper-case parameters": (
        lambda files: shrink("5", "3", "1", "4096")(files).update({"16": {"BLOCK_SIZE_M": 16}}),
        [
            f"{SHRINK_TABLE} 5/3/1/4096/16: block_m is missing: a KeyError in the engine; only the fused MoE kernels "
            "read BLOCK_SIZE_M"
        ],
    ),
    "another tool's values": (
        lambda files: shrink("5", "3", "1", "4096", "16")(files).update(num_warps="4"),
        [
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
        lambda files: files.update({SHRINK_TABLE: {}}), [f"{SHRINK_TABLE} : the file is empty: the engine uses its"]
    ),
    "a list": (lambda files: files.update({SHRINK_TABLE: [1]}), [f"{SHRINK_TABLE} : expected an object with max_"]),
    "text": (lambda files: files.update({SHRINK_TABLE: '"5"'}), [f"{SHRINK_TABLE} : expected an object with max_"]),
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
    assert fault.reason == "no entry for k 14336, so k 4096 is used"
    assert {item.problem.m for item in met} >= {137, *(m for m in CAPTURE_SIZES if m > 136)}
    assert min(item.problem.m for item in met) == 137


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
    with pytest.raises(TableError, match="this folder has files of NVIDIA_H100_80GB_HBM3, NVIDIA_H100_80GB_HBM3_MIG"):
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
    assert any(fault.reason.startswith("no entry for n 32, so n 16 is used") for fault in other.faults)
    sharded = check_folder(tmp_path, replace(MODEL, tensor_parallel=2), gpu=H100.name)
    assert any("no entry for k 2048" in fault.reason for fault in sharded.faults)
    narrow = check_folder(tmp_path, replace(MODEL, target_modules=("o_proj",)), gpu=H100.name)
    assert not narrow.faults


def test_stages_that_expand_does_not_use_cost_no_shared_memory(tmp_path: Path) -> None:
    def many_stages(files: Documents) -> None:
        entry = files[EXPAND_TABLE]["5"]["1"]["256"]["16"]["4096"]
        entry.update(block_m=128, block_n=64, block_k=128, num_stages=4)
        problem = LoraProblem("lora_expand", 4, 1, 256, 128, 4096)
        assert kernel_spec("lora_expand").impossible(entry, problem, H100)

    assert not checked(tmp_path, many_stages).faults


def test_nothing_looked_up_is_a_fault(tmp_path: Path) -> None:
    report = check_folder(write(tmp_path, documents()), replace(MODEL, max_loras=()), gpu=H100.name)
    assert not report.lookups
    ((fault, met),) = report.faults.items()
    assert (fault.file, fault.place, met) == ("", "", ())
    assert fault.reason.startswith("nothing was checked: ")


def test_a_folder_for_dense_kernels_alone_changes_what_experts_run(tmp_path: Path) -> None:
    mixtral = ModelStudy.of(
        str(ROOT / "studies" / "models" / "mixtral-8x7b"), tensor_parallel=2, ranks=[16], max_loras=[2], ms=[64]
    )
    dense = {name: content for name, content in documents(mixtral).items() if "MOE" not in name}
    report = check_folder(write(tmp_path, dense), mixtral, gpu=H100.name)
    assert [fault.file.removeprefix(f"{H100.file_name}_") for fault in report.faults] == [
        f"FUSED_MOE_LORA_{half}_{part}.json" for half in ("W13", "W2") for part in ("EXPAND", "SHRINK")
    ]
    assert {fault.reason for fault in report.faults} == {
        "the file does not exist: with this folder the experts run block_m 64 at every m, not what they run without "
        "a folder"
    }
    assert not check_folder(tmp_path, replace(mixtral, target_modules=("o_proj",)), gpu=H100.name).faults


def test_lookups_of_experts_are_walked(tmp_path: Path) -> None:
    report = checked(tmp_path, model=qwen())
    assert not report.faults
    walked = {item.problem.kernel for item in report.lookups}
    assert len([kernel for kernel in walked if "moe" in kernel]) == 4
    assert {len(item.asked) for item in report.lookups if "moe" in item.problem.kernel} == {6}


def test_both_files_of_expand_are_walked_where_an_engine_asks_for_both(tmp_path: Path) -> None:
    both = replace(MODEL, add_inputs=(True, False))
    assert not checked(tmp_path, model=both).faults
    overwriting = EXPAND_TABLE.replace("TRUE", "FALSE")
    assert {item.file for item in checked(tmp_path, model=both).lookups} == {SHRINK_TABLE, EXPAND_TABLE, overwriting}
    (tmp_path / overwriting).unlink()
    (fault,) = check_folder(tmp_path, both, gpu=H100.name).faults
    assert (fault.file, fault.reason) == (overwriting, "the file does not exist: the engine uses its default configs")


W13_SHRINK = f"{H100.file_name}_FUSED_MOE_LORA_W13_SHRINK.json"
MOE_STEPS = ("16", "256")


def expert_entries(files: Documents, rank: int, **values: object) -> None:
    for m in MOE_STEPS:
        files[W13_SHRINK]["4"]["2"][m][str(rank)]["2048"]["768"].update(values)


@pytest.mark.parametrize(("rank", "stops"), [(16, True), (128, True), (256, False)])
def test_one_launch_needs_blocks_of_16_rows(tmp_path: Path, rank: int, stops: bool) -> None:
    def eight(files: Documents) -> None:
        for document in files.values():
            for level in document.get("4", {}).values():
                for m in MOE_STEPS:
                    level[m][str(rank)]["2048"]["768"]["block_m"] = 8

    found = reasons(checked(tmp_path, eight, qwen(rank)))
    assert bool(found) is stops
    assert all(
        "SHRINK.json" in line and "block_m: expected at least 16, got 8: the engine stops" in line for line in found
    )


@pytest.mark.parametrize(("rank", "fails"), [(64, False), (256, True)])
def test_shared_memory_counts_where_the_files_configs_are_launched(tmp_path: Path, rank: int, fails: bool) -> None:
    large = {"block_k": 256, "num_stages": 16}
    report = checked(tmp_path, lambda files: expert_entries(files, rank, **large), qwen(rank))
    assert any("B of shared memory, but the GPU has" in line for line in reasons(report)) is fails


def test_shared_memory_is_never_borrowed(tmp_path: Path) -> None:
    """What fits an H100 may be too much for an RTX 5090; of a GPU that is not known nothing is said."""

    def large(files: Documents) -> None:
        shrink("5", "1", "16", "4096", "16")(files).update(block_m=256, block_k=64, num_stages=4, split_k=4)

    assert not checked(tmp_path, large).faults
    for gpu, faulty in (("NVIDIA GeForce RTX 5090", True), ("AMD Instinct MI300X", False)):
        folder = tmp_path / gpu
        folder.mkdir()
        files = documents(gpu=gpu.replace(" ", "_"))
        large({SHRINK_TABLE: files[f"{gpu.replace(' ', '_')}_SHRINK.json"]})
        report = check_folder(write(folder, files), MODEL, gpu=gpu)
        assert [
            f"shared memory, but the GPU has 101376 B: the launch would fail on {gpu}" in line
            for line in reasons(report)
        ] == ([True] if faulty else [])
        assert (report.gpu is None) is not faulty


@pytest.mark.parametrize("gpu", ["NVIDIA A100-SXM4-80GB", None], ids=["named", "told from the folder"])
@pytest.mark.parametrize("wrong", ["NVIDIA_A100-SXM4-80GB", "NVIDIA A100 SXM4 80GB"])
def test_files_named_as_no_engine_names_them_are_never_read(tmp_path: Path, wrong: str, gpu: str | None) -> None:
    """As the experts' other files are named, with hyphens, or with spaces."""
    right = "NVIDIA_A100_SXM4_80GB"
    files = documents(gpu=wrong)
    report = check_folder(write(tmp_path, files), MODEL, gpu=gpu)
    assert {fault.reason for fault in report.general if fault.file in files} == {
        f"the engine never reads this file: it looks for {name.replace(wrong, right)}" for name in files
    }
    assert {item.status for item in report.lookups} == {"fault"}
    write(tmp_path, documents(gpu=right))
    mixed = check_folder(tmp_path, MODEL, gpu=gpu)
    assert {fault.file for fault in mixed.faults} == set(files)
