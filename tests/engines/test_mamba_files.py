"""The files of Mamba-2 layers: written by this project, found by vLLM 0.33.0's own function."""

import builtins
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import H100
from hypothesis import given
from hypothesis import strategies as st
from mamba_models import FALCON, NEMOTRON, served
from vllm_wheel import importable, vllm_folder

from bo_tune.core.problem import GpuInfo, SizedProblem
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import merge_tables, read_entries, read_table, write_tables
from bo_tune.engines.registry import address_of, engine_of, engine_of_file, served_problems
from bo_tune.engines.vllm.mamba_files import MambaFile, config_fault, configs_in, file_name, key_of
from bo_tune.errors import ModelError, TableError
from bo_tune.kernels.mamba.step import KERNEL, MambaStep
from bo_tune.kernels.plain_text import code_of, files_of
from bo_tune.kernels.registry import kernel_spec

H200 = GpuInfo("NVIDIA H200 NVL", (9, 0), sm_count=132, shared_memory_bytes=232448)
A100 = GpuInfo("NVIDIA A100-SXM4-80GB", (8, 0), sm_count=108, shared_memory_bytes=166912)
STEP = MambaStep(16, 64, 64, 128, 8)
CONFIG = {"BLOCK_SIZE_M": 8, "num_warps": 2}
Own = Callable[..., Any]


def vllms_own(folder: Path, gpu: str, function: str = "get_ssm_configs") -> Own:
    """A function of vLLM's, reading a folder on a GPU."""
    with importable(vllm_folder()):
        modules = ("model_executor/layers/mamba/ops/mamba_ssm.py", "utils/platform_utils.py")
        file, device = (found for found in files_of(modules) if found is not None)
    platform = SimpleNamespace(current_platform=SimpleNamespace(get_device_name=lambda _: gpu))

    def imported(name: str, *_: Any) -> Any:  # the platform, when its name is asked for
        assert name == "vllm.platforms"
        return platform

    namespace: dict[str, Any] = {
        "__builtins__": {**vars(builtins), "__import__": imported},
        "_CONFIGS_DIR": str(file.parent / "configs" / "selective_state_update"),
        "logger": SimpleNamespace(info_once=lambda *_, **__: None, warning_once=lambda *_, **__: None),
        "envs": SimpleNamespace(VLLM_TUNED_CONFIG_FOLDER=str(folder)),
        "json": json, "os": os, "re": re,
    }  # fmt: skip
    exec(code_of((file, device), function), namespace)
    own: Own = namespace[function]
    return own


@pytest.mark.parametrize("gpu", [H100, H200, A100], ids=lambda gpu: gpu.file_name)
@pytest.mark.parametrize("state", ["float32", "bfloat16", "float16"])
def test_vllm_finds_every_entry_written(tmp_path: Path, gpu: GpuInfo, state: str) -> None:
    configs = {sequences: {"BLOCK_SIZE_M": block, "num_warps": 1} for sequences, block in ((1, 16), (16, 32), (4, 64))}
    entries = [
        TunedEntry(*address_of(MambaStep(count, 64, 64, 128, 8, state_dtype=state).problem, gpu), config, None)
        for count, config in configs.items()
    ]
    (path,) = write_tables(tmp_path, entries)
    expected = {64 * count: config for count, config in configs.items()}
    assert vllms_own(tmp_path, gpu.name)(64, 128, state) == expected
    assert list(json.loads(path.read_text())) == ["64", "256", "1024"]
    resolved = vllms_own(tmp_path, gpu.name, "_try_get_optimal_ssm_config_cached")
    for count, config in configs.items():
        assert resolved(64, 128, count, 64, state, False) == tuple(config.values())


@given(
    keys=st.lists(st.integers(0, 300).map(str) | st.sampled_from(["016", " 8", "-4", "note"]), unique=True),
    pairs=st.integers(1, 400),
)
def test_the_key_taken_is_the_one_that_vllm_takes(keys: list[str], pairs: int) -> None:
    content = {"triton_version": "3.6.0", **{key: key for key in keys}}
    found = {int(key): value for key, value in content.items() if key.isdigit()}  # as vLLM reads it
    expected = found[min(found.keys(), key=lambda x: abs(x - pairs))] if found else None
    assert key_of(configs_in(content), pairs) == expected


def test_a_problem_and_its_step_tell_the_same() -> None:
    for step in (STEP, MambaStep(7, 6, 32, 16, 3, dtype="float16", state_dtype="bfloat16")):
        assert MambaStep.of(step.problem) == step
        assert engine_of(step.problem.kernel).kernels == (KERNEL,)
    with pytest.raises(ValueError, match="expected a problem of selective_state_update"):
        MambaStep.of(SizedProblem(KERNEL, (("sequences", 16),)))
    with pytest.raises(ValueError, match="heads: expected a multiple of the 3 groups, got 64"):
        MambaStep.of(SizedProblem(KERNEL, tuple({**dict(STEP.problem.sizes), "groups": 3}.items())))
    for wrong in ({"state_dtype": "float8"}, {"dtype": "float32"}, {"headdim": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MambaStep.of(SizedProblem(KERNEL, tuple({**dict(STEP.problem.sizes), **wrong}.items())))


def test_problems_of_models(tmp_path: Path) -> None:
    nemotron = served_problems(served(tmp_path, NEMOTRON), [KERNEL])
    assert list(nemotron) == [MambaStep(m, 64, 64, 128, 8).problem for m in (1, 16)]
    assert set(nemotron.values()) == {("mamba",)}
    shared = served_problems(served(tmp_path, NEMOTRON, tensor_parallel=2), [KERNEL])
    assert list(shared) == [MambaStep(m, 32, 64, 128, 4).problem for m in (1, 16)]
    falcon = served_problems(served(tmp_path, FALCON, tensor_parallel=2), [KERNEL])
    assert list(falcon) == [MambaStep(m, 12, 128, 256, 1, state_dtype="bfloat16").problem for m in (1, 16)]
    told = served_problems(served(tmp_path, {**NEMOTRON, "mamba_ssm_cache_dtype": "float16"}), [KERNEL])
    assert next(iter(told)) == MambaStep(1, 64, 64, 128, 8, state_dtype="float16").problem
    named = served_problems(served(tmp_path, NEMOTRON, state_dtype="bfloat16"), [KERNEL])
    assert next(iter(named)) == MambaStep(1, 64, 64, 128, 8, state_dtype="bfloat16").problem
    with pytest.raises(ModelError, match=r"--mamba-ssm-cache-dtype: expected one of .*, got int8"):
        served(tmp_path, NEMOTRON, state_dtype="int8")


def test_no_more_sequences_decode_than_the_engine_has(tmp_path: Path) -> None:
    few = served(tmp_path, NEMOTRON, ms=[8, 64, 512], max_sequences=64)
    assert [MambaStep.of(problem).sequences for problem in served_problems(few, [KERNEL])] == [8, 64]
    one = served(tmp_path, NEMOTRON, ms=[512], max_sequences=64)
    assert [MambaStep.of(problem).sequences for problem in served_problems(one, [KERNEL])] == [64]


def test_models_without_such_layers_have_no_such_problems(tmp_path: Path) -> None:
    dense = served(tmp_path, {**NEMOTRON, "hybrid_override_pattern": "-*"})
    assert not served_problems(dense, [KERNEL])
    model = served(tmp_path, NEMOTRON)
    assert KERNEL not in {problem.kernel for problem in served_problems(model, model.kernels)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mamba_ssm_cache_dtype": "int8"}, "mamba_ssm_cache_dtype: expected one of float32, bfloat16, float16"),
        ({"mamba_head_dim": None}, "mamba_head_dim is missing"),
    ],
)
def test_a_config_that_does_not_tell_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        served(tmp_path, {**NEMOTRON, **changes})


def test_files_are_told_apart_by_their_names() -> None:
    engine = engine_of(KERNEL)
    name = file_name(64, 128, "float32", A100.name)
    assert name == "headdim=64,dstate=128,device_name=NVIDIA_A100-SXM4-80GB,cache_dtype=float32.json"
    assert engine_of_file(name) is engine
    assert MambaFile.of(name) == MambaFile("NVIDIA_A100-SXM4-80GB", "float32")
    assert engine.gpu_in(name) == "NVIDIA_A100-SXM4-80GB"
    assert engine_of_file("headdim=64,dstate=128.json") is None
    assert engine_of_file(name.replace(".json", ".provenance.json")) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "expected an object with numbers of sequences times heads as keys, got an array"),
        ('{"16": [1]}', r"16: expected BLOCK_SIZE_M and num_warps, got \[1\]"),
        ('{"016": {}}', "016: expected a decimal number as number of pairs key, got '016'"),
        (json.dumps({"16": {"BLOCK_SIZE_M": 16}}), "16: expected BLOCK_SIZE_M and num_warps"),
        (json.dumps({"16": {**CONFIG, "BLOCK_SIZE_M": 48}}), "16: block_m: expected a power of two, got 48"),
        (json.dumps({"16": {**CONFIG, "num_warps": 64}}), "16: num_warps: expected at most 32, got 64"),
        ("{", "JSON"),
    ],
)
def test_a_file_that_would_stop_the_engine_is_refused_with_the_place(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / file_name(64, 128, "float32", H100.name)
    path.write_text(content)
    with pytest.raises(TableError, match=reason) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_vllms_tuner_wrote_is_merged_into(tmp_path: Path) -> None:
    address = address_of(STEP.problem, H100)
    theirs = {"triton_version": "3.4.0", "1024": {**CONFIG, "num_warps": 4}, "4096": CONFIG}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / address.file_name).write_text(json.dumps(theirs, indent=4))
    write_tables(tmp_path / "ours", [TunedEntry(*address, CONFIG, None)])
    merge_tables([tmp_path / "theirs", tmp_path / "ours"], tmp_path / "both")
    found = {entry.keys: dict(entry.config) for entry in read_entries(tmp_path / "both" / address.file_name)}
    assert found == {("1024",): CONFIG, ("4096",): CONFIG}
    assert vllms_own(tmp_path / "both", H100.name)(64, 128, "float32") == {1024: CONFIG, 4096: CONFIG}


def test_the_files_that_vllm_ships_are_read() -> None:
    with importable(vllm_folder()):
        (file,) = files_of(["model_executor/layers/mamba/ops/mamba_ssm.py"])
    assert file is not None
    shipped = sorted((file.parent / "configs" / "selective_state_update").glob("*.json"))
    assert len(shipped) == 34
    for path in shipped:
        configs = read_table(path).configs
        document = {key: value for key, value in json.loads(path.read_text()).items() if key != "triton_version"}
        assert {keys[0]: config for keys, config in configs.items()} == document


def test_every_config_of_the_grid_may_be_written() -> None:
    space = kernel_spec(KERNEL).search_space
    assert len(space) <= 40, "few enough for the usual budget to measure them all"
    assert [config for config in space if config_fault(config)] == []
