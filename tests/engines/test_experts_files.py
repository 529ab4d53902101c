"""The files of the base model's experts: written by this project, found by vLLM 0.33.0's own function."""

import builtins
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import H100, ROOT
from hypothesis import given
from hypothesis import strategies as st
from vllm_wheel import importable, vllm_folder

from bo_tune.core.problem import Experts, GpuInfo, SizedProblem
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import merge_tables, read_entries, read_table, write_tables
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.registry import address_of, engine_of, engine_of_file, launchable, served_problems
from bo_tune.engines.vllm.experts import unserved
from bo_tune.engines.vllm.experts_files import ExpertsFile, configs_in, file_name, key_of
from bo_tune.errors import TableError
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.kernels.plain_text import code_of, files_of
from bo_tune.kernels.registry import kernel_spec

H200 = GpuInfo("NVIDIA H200 NVL", (9, 0), sm_count=132, shared_memory_bytes=232448)
A100 = GpuInfo("NVIDIA A100-SXM4-80GB", (8, 0), sm_count=108, shared_memory_bytes=166912)
QWEN = ExpertsStep(16, Experts(128, 8), hidden=2048, n=768)
MODELS = ROOT / "studies" / "models"
CONFIG = {
    "BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 128, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4, "num_stages": 3,
}  # fmt: skip
Found = dict[int, Any] | None


def served(name: str, **more: Any) -> ModelStudy:
    values = {"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": [1, 16], **more}
    return ModelStudy.of(str(MODELS / name), **values)


def vllms_own(folder: Path, gpu: str) -> Callable[..., Found]:
    """vLLM's ``get_moe_configs``, reading a folder on a GPU."""
    with importable(vllm_folder()):
        modules = ("model_executor/layers/fused_moe/fused_moe.py", "utils/platform_utils.py")
        file, device = (found for found in files_of(modules) if found is not None)
        quiet = SimpleNamespace(info_once=lambda *_, **__: None, warning_once=lambda *_, **__: None)
        environment = SimpleNamespace(VLLM_BATCH_INVARIANT=False, VLLM_TUNED_CONFIG_FOLDER=str(folder))
        platform = SimpleNamespace(get_device_name=lambda _: gpu)

        def imported(name: str, *_: Any) -> Any:  # the platform, when its name is asked for
            assert name == "vllm.platforms"
            return SimpleNamespace(current_platform=platform)

        namespace: dict[str, Any] = {
            "__builtins__": {**vars(builtins), "__import__": imported},
            "__file__": str(file),
            "json": json, "os": os, "re": re, "logger": quiet, "envs": environment,
        }  # fmt: skip
        exec(code_of((file, device), "get_moe_configs"), namespace)
        own: Callable[..., Found] = namespace["get_moe_configs"]
        return own


@pytest.mark.parametrize("gpu", [H100, H200, A100], ids=lambda gpu: gpu.file_name)
@pytest.mark.parametrize("step", [QWEN, ExpertsStep(16, Experts(8, 2, local=4), 4096, 14336)], ids=["whole", "rank"])
def test_vllm_finds_every_entry_written(tmp_path: Path, gpu: GpuInfo, step: ExpertsStep) -> None:
    configs = {m: {**CONFIG, "BLOCK_SIZE_M": block} for m, block in ((1, 16), (16, 32), (1024, 128), (8, 64))}
    entries = []
    for m, config in configs.items():
        problem = ExpertsStep(m, step.experts, step.hidden, step.n).problem
        entries.append(TunedEntry(*address_of(problem, gpu), config, None))
    (path,) = write_tables(tmp_path, entries)
    assert vllms_own(tmp_path, gpu.name)(step.experts.local, step.n, None) == configs
    assert list(json.loads(path.read_text())) == ["1", "8", "16", "1024"]
    assert list(next(iter(json.loads(path.read_text()).values()))) == list(CONFIG)


@pytest.mark.parametrize(
    ("held", "asked", "part"),
    [
        ({"weights": "fp8_w8a8", "block": (128, 128)}, ("fp8_w8a8", 128, 128), "dtype=fp8_w8a8,block_shape=[128,128]"),
        ({"weights": "fp8_w8a8"}, ("fp8_w8a8",), "dtype=fp8_w8a8"),
        ({"weights": "int8_w8a16", "block": (0, 128)}, ("int8_w8a16", 0, 128), "dtype=int8_w8a16"),
        ({"weights": "int4_w4a16", "block": (0, 64), "zeros": True}, ("int4_w4a16", 0, 64), "dtype=int4_w4a16"),
    ],
)
def test_vllm_finds_entries_of_weights_of_fewer_bits(
    tmp_path: Path, held: dict[str, Any], asked: tuple[Any, ...], part: str
) -> None:
    problem = replace(QWEN, **held).problem
    (path,) = write_tables(tmp_path, [TunedEntry(*address_of(problem, H200), launchable(problem, CONFIG), None)])
    assert path.name == f"E=128,N=768,device_name=NVIDIA_H200,{part}.json"
    (found,) = (vllms_own(tmp_path, H200.name)(128, 768, *asked) or {}).values()
    assert found == (CONFIG if "fp8" in part else {**CONFIG, "SPLIT_K": 1}), "the kernel of integers needs the last"


@given(
    keys=st.lists(st.integers(0, 300).map(str) | st.sampled_from(["016", " 8", "-4"]), min_size=1, unique=True),
    m=st.integers(1, 400),
)
def test_the_key_taken_is_the_one_that_vllm_takes(keys: list[str], m: int) -> None:
    content = {"triton_version": "3.6.0", **{key: key for key in keys}}
    found = {int(key): value for key, value in content.items() if key != "triton_version"}  # as vLLM reads it
    assert key_of(configs_in(content), m) == found[min(found.keys(), key=lambda x: abs(x - m))]


def test_no_key_is_taken_where_vllm_stops_or_there_is_none() -> None:
    assert key_of({}, 16) is None
    assert key_of({"16": {}, "sixteen": {}}, 16) is None


def test_a_problem_and_its_step_tell_the_same() -> None:
    for step in (QWEN, ExpertsStep(7, Experts(8, 2, local=4), 64, 32, gated=False, dtype="float16")):
        assert ExpertsStep.of(step.problem) == step
        assert engine_of(step.problem.kernel).kernels == (KERNEL,)
    with pytest.raises(ValueError, match="expected a problem of fused_experts"):
        ExpertsStep.of(SizedProblem(KERNEL, (("m", 16),)))
    with pytest.raises(ValueError, match="as many visited"):
        ExpertsStep.of(SizedProblem(KERNEL, tuple({**dict(QWEN.problem.sizes), "top_k": 129}.items())))


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("qwen3-30b-a3b", {}, ExpertsStep(16, Experts(128, 8), 2048, 768)),
        ("qwen3-30b-a3b", {"tensor_parallel": 4}, ExpertsStep(16, Experts(128, 8), 2048, 192)),
        ("qwen3-30b-a3b", {"target_modules": ["q_proj"]}, ExpertsStep(16, Experts(128, 8), 2048, 768)),
        (
            "qwen3-30b-a3b",
            {"tensor_parallel": 4, "expert_parallel": True},
            ExpertsStep(16, Experts(128, 8, local=32), 2048, 768),
        ),
        ("mixtral-8x7b", {"tensor_parallel": 2}, ExpertsStep(16, Experts(8, 2), 4096, 7168)),
    ],
)
def test_problems_of_models(name: str, more: Mapping[str, Any], expected: ExpertsStep) -> None:
    found = served_problems(served(name, **more), [KERNEL])
    assert list(found) == [ExpertsStep(m, expected.experts, expected.hidden, expected.n).problem for m in (1, 16)]
    assert set(found.values()) == {("experts",)}


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b"])
def test_models_whose_experts_are_multiplied_otherwise_have_no_such_problems(name: str) -> None:
    assert not served_problems(served(name), [KERNEL])


def quantized(folder: Path, stored: Mapping[str, Any], **more: Any) -> ModelStudy:
    config = json.loads((MODELS / "qwen3-30b-a3b" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))
    return served(str(folder), **more)


def compressed(**weights: Any) -> dict[str, Any]:
    group = {"weights": {"num_bits": 8, "type": "float", **weights}, "input_activations": {"strategy": "tensor"}}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
BLOCKS = {**FP8, "weight_block_size": [128, 128]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
WNA16 = {"quantization": "moe_wna16"}


@pytest.mark.parametrize(
    ("quantization", "more", "held"),
    [
        (FP8, {}, {"weights": "fp8_w8a8"}),
        (BLOCKS, {}, {"weights": "fp8_w8a8", "block": (128, 128)}),
        (BLOCKS, {"tensor_parallel": 4}, {"weights": "fp8_w8a8", "block": (64, 64), "n": 192}),
        (compressed(strategy="block", block_structure=[128, 128]), {}, {"weights": "fp8_w8a8", "block": (128, 128)}),
        (compressed(strategy="tensor"), {}, {"weights": "fp8_w8a8"}),
        (GPTQ, WNA16, {"weights": "int4_w4a16", "block": (0, 128)}),
        ({**GPTQ, "sym": False}, WNA16, {"weights": "int4_w4a16", "block": (0, 128), "zeros": True}),
        ({**GPTQ, "bits": 8}, {**WNA16, "tensor_parallel": 4}, {"weights": "int8_w8a16", "block": (0, 64), "n": 192}),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True},
            WNA16,
            {"weights": "int4_w4a16", "block": (0, 64), "zeros": True},
        ),
    ],
)
def test_problems_of_quantised_checkpoints(
    tmp_path: Path, quantization: Mapping[str, Any], more: Mapping[str, Any], held: Mapping[str, Any]
) -> None:
    model = quantized(tmp_path, quantization, **more)
    assert list(served_problems(model, [KERNEL])) == [replace(QWEN, m=m, **held).problem for m in (1, 16)]
    assert unserved(model) == ""


@pytest.mark.parametrize(
    ("quantization", "more", "reason"),
    [
        (GPTQ, {}, "experts of gptq are multiplied by kernels that read no tuned files"),
        (
            compressed(type="int", num_bits=4),
            {},
            "experts of compressed integers are multiplied by kernels that read no",
        ),
        (
            compressed(strategy="channel"),
            {},
            "bo_tune does not know experts in fp8 with a scale for each channel or token",
        ),
        ({**BLOCKS, "weight_block_size": "128"}, {}, "weight_block_size: expected two sizes, got '128'"),
        (
            BLOCKS,
            {"tensor_parallel": 32},
            "24 and 2048 elements cannot be divided evenly into blocks of 32 or more that share a scale",
        ),
        (
            {**GPTQ, "desc_act": True},
            WNA16,
            "--quantization moe_wna16 supports only gptq of 4 or 8 bits in order, and awq of 4",
        ),
        ({**GPTQ, "group_size": -1}, WNA16, "--quantization moe_wna16: expected a group_size of at least 32, got -1"),
        (FP8, {"quantization": "experts_int8"}, "bo_tune does not know experts of --quantization experts_int8"),
        ("fp8", {"quantization": "moe_wna16"}, "--quantization moe_wna16 supports only gptq"),
    ],
)
def test_experts_for_which_no_file_is_read_pose_no_problems_and_the_reason_is_told(
    tmp_path: Path, quantization: Mapping[str, Any], more: Mapping[str, Any], reason: str
) -> None:
    model = quantized(tmp_path, quantization, **more)
    assert not served_problems(model, [KERNEL])
    assert reason in unserved(model)


def test_adapters_alone_are_asked_for_unless_the_kernel_is_named() -> None:
    model = served("qwen3-30b-a3b")
    assert KERNEL not in model.kernels
    assert KERNEL not in {problem.kernel for problem in served_problems(model, model.kernels)}


def test_files_are_told_apart_by_their_names() -> None:
    engine = engine_of(KERNEL)
    name = "E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    assert engine_of_file(name) is engine
    assert ExpertsFile.of(name) == ExpertsFile("NVIDIA_H200", "fp8_w8a8")
    assert engine.gpu_in(file_name(8, 7168, A100.name)) == "NVIDIA_A100-SXM4-80GB"
    assert engine_of_file("E=8,N=7168.json") is None
    assert engine_of_file("E=8,N=7168,device_name=NVIDIA_L4.provenance.json") is None
    assert file_name(8, 7168, "NVIDIA GH200 480GB") == "E=8,N=7168,device_name=NVIDIA_GH200_480GB.json"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "expected an object with numbers of tokens as keys, got an array"),
        ('{"16": [1]}', r"16: expected a config, got \[1\]"),
        ('{"x": {}}', "x: expected a decimal number as number of tokens key, got 'x'"),
        (json.dumps({"16": {**CONFIG, "block_m": 16}}), "16: block_m is not a parameter of the kernel"),
        (json.dumps({"16": {"BLOCK_SIZE_M": 16}}), "16: BLOCK_SIZE_N is missing"),
        (json.dumps({"16": {**CONFIG, "BLOCK_SIZE_N": 48}}), "16: block_n: expected a power of two, got 48"),
        (json.dumps({"16": {**CONFIG, "num_warps": None}}), "16: num_warps: expected an integer >= 1, got null"),
        ('{"16": 1, "16": 2}', "16"),
        ("{", "JSON"),
    ],
)
def test_a_file_that_would_stop_the_engine_is_refused_with_the_place(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / file_name(128, 768, H100.name)
    path.write_text(content)
    with pytest.raises(TableError, match=reason) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_vllms_tuner_wrote_is_merged_into(tmp_path: Path) -> None:
    address = address_of(QWEN.problem, H100)
    theirs = {"triton_version": "3.4.0", "16": {**CONFIG, "SPLIT_K": 1}, "1024": CONFIG}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / address.file_name).write_text(json.dumps(theirs, indent=4))
    write_tables(tmp_path / "ours", [TunedEntry(*address, {**CONFIG, "num_warps": 8}, None)])
    merge_tables([tmp_path / "theirs", tmp_path / "ours"], tmp_path / "both")
    found = {entry.keys: dict(entry.config) for entry in read_entries(tmp_path / "both" / address.file_name)}
    assert found == {("16",): {**CONFIG, "num_warps": 8}, ("1024",): CONFIG}
    assert vllms_own(tmp_path / "both", H100.name)(128, 768, None) == {16: found["16",], 1024: CONFIG}


def test_the_files_that_vllm_ships_for_these_weights_are_read() -> None:
    with importable(vllm_folder()):
        (file,) = files_of(["model_executor/layers/fused_moe/fused_moe.py"])
    assert file is not None
    shipped = sorted((file.parent / "configs").glob("E=*,device_name=NVIDIA*.json"))
    assert len(shipped) > 100
    for path in shipped:
        configs = read_table(path).configs
        document = {key: value for key, value in json.loads(path.read_text()).items() if key != "triton_version"}
        assert {keys[0]: config for keys, config in configs.items()} == document


def test_every_config_of_the_grid_may_be_written() -> None:
    file = ExpertsFile.of(file_name(128, 768, H100.name))
    assert file is not None
    space = kernel_spec(KERNEL).search_space
    assert len(space) == 1920
    assert [config for config in space if file.fault(config)] == []
