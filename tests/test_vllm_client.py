"""What is written is what the published vLLM finds: its own lookup, asked as its engine asks."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import H100, ROOT
from vllm_wheel import importable, vllm_folder

from bo_tune.analysis.folders import ready_folders
from bo_tune.core.problem import LoraProblem
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import read_entries, write_tables
from bo_tune.engines.provenance import Provenance
from bo_tune.engines.registry import address_of
from bo_tune.engines.vllm.file_names import split_file_name
from bo_tune.formats.study_file import load_study_file
from bo_tune.kernels.registry import kernel_spec

MODULE = "vllm.lora.ops.triton_ops"
LLAMA = load_study_file(ROOT / "studies" / "llama-3.1-8b.toml").problems()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """vLLM's module with the lookup, on a GPU called as an H100, reading this test's folder."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: H100.name)
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    with importable(vllm_folder()):
        yield importlib.import_module(f"{MODULE}.utils")


def numbered_config(problem: LoraProblem, number: int) -> dict[str, int]:
    """A config that no other problem has, so that a neighbour's entry shows."""
    return {**kernel_spec(problem.kernel).default_config(problem), "block_m": 1000 + number}


def entry(problem: LoraProblem, config: dict[str, int]) -> TunedEntry:
    provenance = Provenance(
        problem=problem,
        config=config,
        time_us=1.0,
        default_time_us=2.0,
        gpu=H100.name,
        driver="",
        torch="",
        triton="",
        kernel_source="vllm 0.33.0",
        date="2026-01-02T03:04:05+00:00",
        study="",
        sampler="",
        session="",
        costs={},
    )
    return TunedEntry(*address_of(problem, H100), config, provenance)


def asked_by_engine(client: ModuleType, problem: LoraProblem) -> dict[str, int]:
    """Ask as vLLM's launchers do, for the group slots that its engine makes of ``--max-loras``."""
    metadata = importlib.import_module(f"{MODULE}.lora_kernel_metadata").LoRAKernelMeta
    slots = metadata.make(max_loras=problem.max_loras, max_num_tokens=problem.m, device="cpu").active_lora_ids.size(0)
    shrink = problem.kernel == "lora_shrink"
    found: dict[str, int] = client.get_lora_op_configs(
        op_type="shrink" if shrink else "expand",
        max_loras=slots,
        batch=problem.m,
        hidden_size=problem.k if shrink else problem.n,
        rank=problem.n if shrink else problem.k,
        num_slices=problem.num_slices,
        add_inputs=None if shrink else problem.add_inputs is not False,
    )
    return found


def test_the_client_finds_every_entry_of_a_model(client: ModuleType, tmp_path: Path) -> None:
    configs = {problem: numbered_config(problem, number) for number, problem in enumerate(LLAMA)}
    assert {problem.num_slices for problem in configs} == {1, 2, 3}
    write_tables(tmp_path, [entry(problem, config) for problem, config in configs.items()])
    for problem, config in configs.items():
        assert asked_by_engine(client, problem) == config, problem


def test_the_client_takes_a_neighbour_where_an_entry_is_missing(client: ModuleType, tmp_path: Path) -> None:
    """What the numbers in the test above would show if a key were wrong."""
    small, large = (LoraProblem("lora_shrink", 4, 1, m, 4096, 16) for m in (16, 256))
    write_tables(tmp_path, [entry(small, numbered_config(small, 1))])
    assert asked_by_engine(client, large) == numbered_config(small, 1)


def test_without_files_the_client_takes_the_default_config(client: ModuleType) -> None:
    """The baseline that tuning must beat is vLLM's own, but for two keys that it fills in or does not use."""
    for problem in LLAMA:
        found = asked_by_engine(client, problem)
        assert found.pop("max_nreg") is None
        assert found.pop("group_size_m", 8) == 8
        assert found == kernel_spec(problem.kernel).default_config(problem), problem


QWEN_3 = load_study_file(ROOT / "studies" / "qwen3-30b-a3b-moe.toml").problems()


def test_the_client_finds_every_entry_of_a_models_experts(client: ModuleType, tmp_path: Path) -> None:
    """As ``punica_gpu`` asks: max_loras as the engine has it, w2 with one slice, and the intermediate size."""
    configs = {problem: numbered_config(problem, number) for number, problem in enumerate(QWEN_3)}
    write_tables(tmp_path, [entry(problem, config) for problem, config in configs.items()])
    assert len(list(tmp_path.glob("*_FUSED_MOE_LORA_*.json"))) == 2 * 4  # each with its sidecar
    for problem, config in configs.items():
        assert experts_asked(client, problem) == config, problem


def experts_asked(client: ModuleType, problem: LoraProblem) -> dict[str, int]:
    found: dict[str, int] = client.get_lora_op_configs(
        op_type=problem.kernel,
        max_loras=problem.max_loras,
        batch=problem.m,
        hidden_size=problem.n,
        rank=problem.k,
        num_slices=problem.num_slices,
        moe_intermediate_size=problem.i,
    )
    return found


TUNED = sorted({path.parent.name for path in (ROOT / "studies" / "folders").glob("*/*.provenance.json")})


@pytest.mark.parametrize("name", TUNED)
def test_the_client_finds_every_entry_of_a_folder_that_comes_with_the_package(
    client: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ready in ready_folders([name]):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu=ready.gpu: gpu)
        monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(ready.folder))
        entries = [one for path in ready.tables for one in read_entries(path) if split_file_name(path.name)]
        assert len(entries) > 100
        for one in entries:
            assert one.provenance is not None
            problem = one.provenance.problem
            assert isinstance(problem, LoraProblem)
            ask = experts_asked if "_FUSED_MOE_" in one.file_name else asked_by_engine
            assert ask(client, problem) == one.config, problem
