"""The experts' and Mamba's files beside LoRA's, by vLLM 0.33.0's own code."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import H100
from tuned_folder import MODEL, documents, write

from bo_tune.engines.check import check_folder

A100 = "NVIDIA A100-SXM4-80GB"
H200 = "NVIDIA H200 NVL"
GOOD = {"BLOCK_SIZE_M": 64, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 32, "GROUP_SIZE_M": 8, "num_warps": 4, "num_stages": 3}


def faults(folder: Path, name: str, content: Any, gpu: str = H100.name) -> list[str]:
    """Return what is said of one more file in a good folder."""
    files = documents(gpu=gpu.replace(" ", "_").replace("-", "_"))
    text = content if isinstance(content, str) else json.dumps(content)
    report = check_folder(write(folder, files | {name: text}), MODEL, gpu=gpu)
    assert {fault.file for fault in report.faults} <= {name}
    return [f"{fault.place}: {fault.reason}" for fault in report.faults]


@pytest.mark.parametrize(
    ("name", "gpu", "expected"),
    [
        ("E=128,N=768,device_name=NVIDIA_A100-SXM4-80GB.json", A100, []),
        (
            "E=128,N=768,device_name=NVIDIA_A100_SXM4_80GB.json",
            A100,
            [": the engine never reads this file: on this GPU it looks for device_name=NVIDIA_A100-SXM4-80GB"],
        ),
        ("E=128,N=768,device_name=NVIDIA_H200.json", H200, []),
        (
            "E=128,N=768,device_name=NVIDIA_H200_NVL.json",
            H200,
            [": the engine never reads this file: on this GPU it looks for device_name=NVIDIA_H200"],
        ),
        ("E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json", H100.name, []),
        (
            "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3,dtype=bf16.json",
            H100.name,
            [
                ": the engine never reads this file: it never looks for dtype=bf16, only for fp8_w8a8, fp8_w8a16, "
                "int8_w8a16, "
                "int4_w4a16, float32"
            ],
        ),
        ("E=8,N=7168.json", H100.name, [": the engine never reads this file: it looks for no file of such a name"]),
        ("E=8,N=7168,device_name=NVIDIA_L4.json", H100.name, []),
        ("E=8,N=7168,device_name=NVIDIA_L4,dtype=bf16.json", H100.name, []),
        ("headdim=64,dstate=128,device_name=NVIDIA_H200_NVL,cache_dtype=float16.json", H200, []),
        (
            "headdim=64,dstate=128,device_name=NVIDIA_A100_SXM4_80GB,cache_dtype=float16.json",
            A100,
            [": the engine never reads this file: on this GPU it looks for device_name=NVIDIA_A100-SXM4-80GB"],
        ),
        (
            "headdim=64,dstate=128,device_name=NVIDIA_H100_80GB_HBM3,cache_dtype=bfloat16.json",
            H100.name,
            [": the engine never reads this file: it never looks for cache_dtype=bfloat16, only for float16, float32"],
        ),
    ],
)
def test_names(tmp_path: Path, name: str, gpu: str, expected: list[str]) -> None:
    assert faults(tmp_path, name, {"16": GOOD}, gpu) == expected


def test_a_name_with_hyphens_cannot_be_told_wrong_without_the_gpus_own(tmp_path: Path) -> None:
    name = "E=128,N=768,device_name=NVIDIA_Z1_80GB.json"
    report = check_folder(write(tmp_path, documents(gpu="NVIDIA_Z1_80GB") | {name: {"x": GOOD}}), MODEL)
    assert [fault.reason for fault in report.faults] == ["the key is not a number of tokens: the engine stops"]


EXPERTS = f"E=128,N=768,device_name={H100.file_name}.json"
INT4 = f"E=128,N=384,device_name={H100.file_name},dtype=int4_w4a16.json"
MAMBA = f"headdim=64,dstate=128,device_name={H100.file_name},cache_dtype=float32.json"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (EXPERTS, {"triton_version": "3.6.0", "1": GOOD, "64": {**GOOD, "SPLIT_K": 1, "num_ctas": 1}}, []),
        (EXPERTS, {"1": {**GOOD, "block_m": 16}}, ["1: block_m is not a parameter of the kernel: the engine stops"]),
        (
            EXPERTS,
            {"1": {**GOOD, "waves_per_eu": 0}},
            ["1: waves_per_eu is not a parameter of the kernel"],
        ),
        (EXPERTS, {"1": {"BLOCK_SIZE_M": 64}}, ["1: BLOCK_SIZE_N is missing: the engine stops"]),
        (INT4, {"1": {"BLOCK_SIZE_M": 64, "GROUP_SIZE_M": 1, "SPLIT_K": 1}}, []),
        (INT4, {"1": {"BLOCK_SIZE_M": 64, "GROUP_SIZE_M": 1}}, ["1: SPLIT_K is missing: the engine stops"]),
        (
            EXPERTS,
            {"1": {**GOOD, "BLOCK_SIZE_N": 48}},
            ["1: block_n: expected a power of two, got 48"],
        ),
        (EXPERTS, {"version": GOOD}, ["version: the key is not a number of tokens: the engine stops"]),
        (EXPERTS, {"1": [64]}, ["1: expected a config, got [64]: the engine stops"]),
        (EXPERTS, [], [": expected an object with numbers of tokens as keys: the engine stops"]),
        (EXPERTS, {}, [": the file is empty: the engine uses its default configs, not the shipped ones"]),
        (EXPERTS, "{", [": not JSON: "]),
        (MAMBA, {"triton_version": "3.6.0", "note": "x", "64": {"BLOCK_SIZE_M": 4, "num_warps": 4, "x": "y"}}, []),
        (MAMBA, {"64": {"BLOCK_SIZE_M": 4}}, ["64: expected BLOCK_SIZE_M and num_warps, got "]),
        (MAMBA, {"64": {"BLOCK_SIZE_M": 3, "num_warps": 4}}, ["64: block_m: expected a power of two, got 3"]),
        (MAMBA, {"note": {}}, [": the file is empty: the engine uses its default config, not the shipped ones"]),
        (MAMBA, [], [": the engine never reads this file: expected an object"]),
    ],
)
def test_values(tmp_path: Path, name: str, content: Any, expected: list[str]) -> None:
    found = faults(tmp_path, name, content)
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found
