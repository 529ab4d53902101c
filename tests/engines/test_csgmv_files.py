"""The files of SGLang's chunked LoRA kernels: written by this project, found by SGLang 0.5.23's own loader."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import H100, ROOT
from hypothesis import given
from hypothesis import strategies as st
from sglang_wheel import importable, sglang_folder

from bo_tune.core.choices import EngineChoice
from bo_tune.core.problem import GpuInfo
from bo_tune.engines.base import TunedEntry
from bo_tune.engines.folder import merge_tables, read_entries, read_table, write_placed, write_tables
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.registry import address_of, engine_of, engine_of_file, served_problems
from bo_tune.engines.sglang.csgmv_files import CsgmvFile, file_name, key_of, places, subfolder
from bo_tune.engines.sglang.layers import middle_tokens
from bo_tune.errors import ModelError, TableError
from bo_tune.kernels.csgmv.spec import NO_LIMIT
from bo_tune.kernels.csgmv.step import EXPAND, KERNELS, SHRINK, CsgmvStep
from bo_tune.kernels.plain_text import code_of
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.sglang.installed import LOOKUP_FILE, file_of

A100 = GpuInfo("NVIDIA A100-SXM4-80GB", (8, 0), sm_count=108, shared_memory_bytes=166912)
STEPS = {
    SHRINK: CsgmvStep(SHRINK, 32, 16, 4, 16, 4096, 3),
    EXPAND: CsgmvStep(EXPAND, 32, 16, 4, 16, 0, 3, (4096, 1024, 1024)),
}
CONFIGS = {
    SHRINK: {"BLOCK_N": 32, "BLOCK_K": 128, "num_warps": 4, "num_stages": 4},
    EXPAND: {"BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2, "maxnreg": 160},
}
LLAMA = ROOT / "studies" / "models" / "llama-3.1-8b"
RELEASE = "3.6.0"


def served(path: Path = LLAMA, **more: Any) -> ModelStudy:
    values = {"tensor_parallel": 1, "ranks": [16], "max_loras": [8], "ms": [1, 16, 64], **more}
    return ModelStudy.of(str(path), engine=EngineChoice.SGLANG, **values)


def sglangs_own(folder: Path, gpu: str, function: str = "get_lora_configs") -> Callable[..., Any]:
    """A function of SGLang's loader, reading a folder on a GPU."""
    with importable(sglang_folder()):
        file = file_of(LOOKUP_FILE)
    system = SimpleNamespace(environ={"SGLANG_LORA_CONFIG_DIR": str(folder)}, path=os.path, listdir=os.listdir)
    namespace: dict[str, Any] = {
        "__file__": str(file), "json": json, "os": system, "_logged_configs": set(),
        "logger": SimpleNamespace(info=lambda *_: None, warning=lambda *_: None),
        "triton": SimpleNamespace(__version__=RELEASE), "get_device_name": lambda: gpu,
    }  # fmt: skip
    exec(code_of((file,), function), namespace)
    own: Callable[..., Any] = namespace[function]
    return own


def entry(step: CsgmvStep, config: dict[str, int], gpu: GpuInfo = H100) -> TunedEntry:
    return TunedEntry(*address_of(step.problem, gpu), config, None)


def as_launched(config: dict[str, int]) -> dict[str, int]:
    """A config as it stands in a file: without a limit of registers where there is none."""
    return {name: value for name, value in config.items() if (name, value) != ("maxnreg", NO_LIMIT)}


@pytest.mark.parametrize("gpu", [H100, A100], ids=lambda gpu: gpu.file_name)
@pytest.mark.parametrize("kernel", KERNELS)
def test_sglang_finds_every_entry_written(tmp_path: Path, gpu: GpuInfo, kernel: str) -> None:
    step, config = STEPS[kernel], CONFIGS[kernel]
    configs = {chunk: {**config, "num_stages": stages} for chunk, stages in ((16, 1), (128, 2), (32, 3))}
    if kernel == EXPAND:
        configs[32]["maxnreg"] = NO_LIMIT
    place = tmp_path / subfolder(RELEASE)
    (path,) = write_tables(place, [entry(replace(step, chunk=c), one, gpu) for c, one in configs.items()])
    assert path.parent.relative_to(tmp_path) == Path("csgmv_configs", "triton_3_6_0")
    name = kernel.partition("_")[2]
    found = sglangs_own(tmp_path, gpu.name)(name, step.wide, 16, 3)
    assert found == {chunk: as_launched(one) for chunk, one in configs.items()}
    assert list(json.loads(path.read_text())) == ["16", "32", "128"]
    asked = sglangs_own(tmp_path, gpu.name, f"get_lora_{name}_config")
    for chunk, one in configs.items():
        assert asked(K=step.wide, R=16, num_slices=3, chunk_size=chunk) == as_launched(one)
    assert asked(K=step.wide, R=16, num_slices=3, chunk_size=64) == as_launched(configs[32])


def test_the_files_of_other_releases_are_where_sglang_looks_next(tmp_path: Path) -> None:
    step = STEPS[SHRINK]
    for release, stages in (("3.5.1", 2), ("3.10.0", 3), (None, 4)):
        write_tables(tmp_path / subfolder(release), [entry(step, {**CONFIGS[SHRINK], "num_stages": stages})])
    order = [place.name for place in places(tmp_path, RELEASE)]
    assert order == ["triton_3_5_1", "triton_3_10_0", "triton_0_unknown"]
    assert sglangs_own(tmp_path, H100.name)("shrink", 4096, 16, 3)[16]["num_stages"] == 2
    write_tables(tmp_path / subfolder(RELEASE), [entry(step, {**CONFIGS[SHRINK], "num_stages": 5})])
    assert next(iter(places(tmp_path, RELEASE))).name == "triton_3_6_0"
    assert sglangs_own(tmp_path, H100.name)("shrink", 4096, 16, 3)[16]["num_stages"] == 5
    assert places(tmp_path / "csgmv_configs" / "triton_3_5_1") == [tmp_path / "csgmv_configs" / "triton_3_5_1"]


def test_entries_of_nobody_knows_which_release_are_written_where_sglang_looks_last(tmp_path: Path) -> None:
    (path,) = write_placed(tmp_path, [entry(STEPS[SHRINK], CONFIGS[SHRINK])])
    assert path.parent == tmp_path / "csgmv_configs" / "triton_0_unknown"
    assert sglangs_own(tmp_path, H100.name)("shrink", 4096, 16, 3) == {16: CONFIGS[SHRINK]}


@given(
    keys=st.lists(st.integers(0, 300).map(str) | st.sampled_from(["016", " 8"]), min_size=1, unique=True),
    chunk=st.integers(1, 400),
)
def test_the_key_taken_is_the_one_that_sglang_takes(keys: list[str], chunk: int) -> None:
    found = {int(key): key for key in keys}  # as SGLang reads it
    expected = found.get(chunk) or found[min(found.keys(), key=lambda x: abs(x - chunk))]
    assert key_of(keys, chunk) == expected


def test_no_key_is_taken_where_sglang_stops() -> None:
    assert key_of([], 16) is None
    assert key_of(["16", "note"], 16) is None


def test_files_are_told_apart_by_their_names() -> None:
    engine = engine_of(SHRINK)
    assert engine_of(EXPAND) is engine
    name = file_name(STEPS[EXPAND], A100.name)
    assert name == "lora_expand,K=6144,R=16,S=3,device=NVIDIA_A100-SXM4-80GB.json"
    assert engine_of_file(name) is engine
    assert CsgmvFile.of(name) == CsgmvFile(EXPAND, "NVIDIA_A100-SXM4-80GB")
    assert engine_of_file(name.replace(".json", ".provenance.json")) is None
    assert engine_of_file("lora_shrink,K=1.json") is None


def problems(model: ModelStudy) -> dict[CsgmvStep, tuple[str, ...]]:
    return {CsgmvStep.of(problem): layers for problem, layers in served_problems(model).items()}


def test_problems_of_a_model() -> None:
    found = problems(served())
    assert found == {
        CsgmvStep(SHRINK, 16, 16, 8, 16, 4096, 3): ("qkv_proj",),
        CsgmvStep(SHRINK, 16, 16, 8, 16, 4096, 1): ("o_proj",),
        CsgmvStep(SHRINK, 16, 16, 8, 16, 4096, 2): ("gate_up_proj",),
        CsgmvStep(SHRINK, 16, 16, 8, 16, 14336, 1): ("down_proj",),
        CsgmvStep(EXPAND, 16, 16, 8, 16, 0, 3, (4096, 1024, 1024)): ("qkv_proj",),
        CsgmvStep(EXPAND, 16, 16, 8, 16, 0, 1, (4096,)): ("o_proj", "down_proj"),
        CsgmvStep(EXPAND, 16, 16, 8, 16, 0, 2, (14336, 14336)): ("gate_up_proj",),
    }
    assert served().kernels == KERNELS


def test_problems_of_a_shared_model() -> None:
    wide = {(step.kernel, step.slices, step.wide) for step in problems(served(tensor_parallel=4))}
    assert (EXPAND, 3, 1024 + 256 + 256) in wide
    assert (SHRINK, 1, 3584) in wide
    assert (EXPAND, 1, 4096) in wide, "outputs of row-parallel layers are whole"


def test_each_size_of_chunks_has_a_problem_of_its_own() -> None:
    found = problems(served(chunk_size=128, ms=[1, 8, 32, 64, 100, 512], target_modules=["o_proj"]))
    assert {(step.m, step.chunk) for step in found} == {(8, 16), (64, 32), (512, 128)}
    assert middle_tokens([4096, 1, 8, 64], 16) == {16: 8}
    assert middle_tokens([], 16) == {}


@pytest.mark.parametrize(
    ("path", "more", "reason"),
    [
        (LLAMA, {"chunk_size": 24}, "--max-lora-chunk-size: expected one of 16, 32, 64, 128, got 24"),
        (LLAMA, {"fully_sharded": True}, "--fully-sharded-loras: SGLang has no such option"),
        (LLAMA, {"dual_stream": True}, "--dual-stream: SGLang has no such option"),
        (LLAMA.parent / "qwen3-30b-a3b", {}, "bo_tune does not know how SGLang handles adapters of gate, experts"),
    ],
)
def test_what_is_not_served_like_this_is_refused(path: Path, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        problems(served(path, **more))


def test_layers_that_are_chosen_are_served_of_any_model() -> None:
    found = problems(served(LLAMA.parent / "qwen3-30b-a3b", target_modules=["qkv_proj", "o_proj"]))
    assert {name for names in found.values() for name in names} == {"qkv_proj", "o_proj"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "expected an object with chunk sizes as keys, got an array"),
        ("{}", "expected an object with chunk sizes as keys, got an empty object"),
        ('{"16": [1]}', r"16: expected a config, got \[1\]"),
        ('{"x": {}}', "x: expected a decimal number as chunk size key, got 'x'"),
        ('{"16": {"BLOCK_N": 16}}', "16: BLOCK_K is missing"),
        ('{"16": {"BLOCK_N": 8, "BLOCK_K": 64}}', "16: BLOCK_N: expected at least 16, got 8"),
        ('{"16": {"BLOCK_N": 48, "BLOCK_K": 64}}', "16: block_n: expected a power of two, got 48"),
        ('{"16": {"BLOCK_N": 64, "BLOCK_K": 64, "maxnreg": 256}}', "16: maxnreg: expected an integer from 1 to 255"),
        ("{", "JSON"),
    ],
)
def test_a_file_that_would_stop_the_engine_is_refused_with_the_place(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / file_name(STEPS[EXPAND], H100.name)
    path.write_text(content)
    with pytest.raises(TableError, match=reason) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_sglangs_tuner_wrote_is_merged_into(tmp_path: Path) -> None:
    address = address_of(STEPS[EXPAND].problem, H100)
    theirs = {"16": {"BLOCK_N": 64, "BLOCK_K": 16}, "128": CONFIGS[EXPAND]}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / address.file_name).write_text(json.dumps(theirs, indent=4))
    write_tables(tmp_path / "ours", [entry(STEPS[EXPAND], CONFIGS[EXPAND])])
    merge_tables([tmp_path / "theirs", tmp_path / "ours"], tmp_path / "both")
    found = {one.keys: dict(one.config) for one in read_entries(tmp_path / "both" / address.file_name)}
    assert found == {("16",): CONFIGS[EXPAND], ("128",): CONFIGS[EXPAND]}


def test_the_files_that_sglang_ships_are_read() -> None:
    with importable(sglang_folder()):
        shipped = sorted((file_of(LOOKUP_FILE).parent / "csgmv_configs").rglob("*.json"))
    assert len(shipped) == 7
    for path in shipped:
        document = json.loads(path.read_text())
        assert {keys[0]: as_launched(dict(c)) for keys, c in read_table(path).entries.items()} == document


def test_every_config_of_the_grids_may_be_written() -> None:
    for kernel, step in STEPS.items():
        file = CsgmvFile.of(file_name(step, H100.name))
        assert file is not None
        assert [config for config in kernel_spec(kernel).search_space if file.fault(config)] == []
