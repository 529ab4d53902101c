"""Folders that say nothing of the experts leave them as an untuned engine runs them: asked of the published vLLM."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import H100, ROOT
from vllm_wheel import importable, vllm_folder

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.surroundings import MOE_KERNELS
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.check import check_folder
from bo_tune.engines.folder import write_tables
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.file_names import table_file_name
from bo_tune.engines.vllm.lora import VllmLora
from bo_tune.engines.vllm.untuned import MOST_TOKENS
from bo_tune.kernels.moe.spec import MOE_SPECS
from bo_tune.kernels.moe.untuned import as_read
from bo_tune.kernels.vllm.untuned import untuned_configs

pytestmark = pytest.mark.slow

H200 = GpuInfo("NVIDIA H200", (9, 0), sm_count=132, shared_memory_bytes=232448)
MODELS = ROOT / "studies" / "models"


def untuned_entries(model: ModelStudy, tuned: Sequence[str], gpu: GpuInfo, folder: Path) -> Sequence[TunedEntry]:
    return VllmLora().completion(list(model.problems_by_layer()), tuned, gpu, folder).entries


def served(name: str, **more: Any) -> ModelStudy:
    values = {"tensor_parallel": 1, "ranks": [16], "max_loras": [4], "ms": [16], **more}
    return ModelStudy.of(str(MODELS / name), **values)


@pytest.fixture(params=[H100, H200], ids=lambda gpu: gpu.file_name)
def gpu(request: pytest.FixtureRequest) -> GpuInfo:
    found: GpuInfo = request.param
    return found


@pytest.fixture
def client(gpu: GpuInfo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """vLLM's module with the lookup, reading this test's folder."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu.name)
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    with importable(vllm_folder()):
        yield importlib.import_module("vllm.lora.ops.triton_ops.utils")


def found_by(client: ModuleType, problem: LoraProblem) -> dict[str, Any]:
    found = client.get_lora_op_configs(
        op_type=problem.kernel, max_loras=problem.max_loras, batch=problem.m, hidden_size=problem.n, rank=problem.k,
        num_slices=problem.num_slices, moe_intermediate_size=problem.i,
    )  # fmt: skip
    return as_read(found)


@pytest.mark.parametrize(
    "model",
    [
        served("qwen3-30b-a3b"),
        served("mixtral-8x7b", tensor_parallel=2, fully_sharded=True, ranks=[64]),
        served("gpt-oss-20b"),
    ],
    ids=["qwen3", "mixtral, fully sharded", "gpt-oss"],
)
def test_the_nearest_entry_is_what_the_engine_took_without_a_folder_at_every_m(
    client: ModuleType, gpu: GpuInfo, tmp_path: Path, model: ModelStudy
) -> None:
    write_tables(tmp_path, untuned_entries(model, ["lora_shrink"], gpu, tmp_path))
    for spec in MOE_SPECS:
        (problem,) = replace(model, ms=(1,)).problems_by_layer([spec.name])
        untuned = untuned_configs(spec, problem, gpu)
        for m in (*range(1, 1100), *range(1100, MOST_TOKENS, 97)):
            found = found_by(client, replace(problem, m=m))
            assert {name: found[name] for name in spec.search_space.names} == untuned(m), (spec.name, m)
    faults = check_folder(tmp_path, replace(model, target_modules=("experts", "o_proj")), gpu=gpu.name).faults
    assert {fault.file for fault in faults} == {f"{gpu.file_name}_{stem}.json" for stem in ("SHRINK", "EXPAND_TRUE")}


def test_a_folder_of_other_files_alone_would_change_the_experts(client: ModuleType, gpu: GpuInfo) -> None:
    """What the entries are for: with the folder set and no file of theirs, experts run block_m 64."""
    (problem,) = served("qwen3-30b-a3b").problems_by_layer(["fused_moe_lora_w13_shrink"])
    assert found_by(client, problem)["block_m"] == 64
    assert untuned_configs(MOE_SPECS[0], problem, gpu)(problem.m)["block_m"] == 16


def test_experts_that_are_tuned_or_have_entries_are_left_alone(gpu: GpuInfo, tmp_path: Path) -> None:
    model = served("qwen3-30b-a3b")
    assert not untuned_entries(model, [MOE_KERNELS[0]], gpu, tmp_path), "the four must agree on block_m"
    assert not untuned_entries(served("llama-3.1-8b"), [], gpu, tmp_path)
    keys = ("4", "2", "16", "16", "2048", "768")
    other = TunedEntry(table_file_name(gpu.file_name, "FUSED_MOE_LORA_W13_SHRINK"), keys, {"block_m": 32}, None)
    write_tables(tmp_path, [other])
    assert not untuned_entries(model, [], gpu, tmp_path)
    assert untuned_entries(replace(model, ranks=(64,)), [], gpu, tmp_path), "another rank is another lookup"
