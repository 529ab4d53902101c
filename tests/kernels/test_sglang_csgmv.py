"""The published SGLang's chunked LoRA kernels through the adapter, on a machine without a GPU."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from csgmv_cases import CONFIGS, assemble, qkv
from helpers import H100
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sglang_wheel import VERSION, importable, sglang_folder
from triton.backends.compiler import GPUTarget

from bo_tune.core.problem import GpuInfo
from bo_tune.errors import DeviceError, InputError
from bo_tune.kernels.csgmv.inputs import Chunks
from bo_tune.kernels.csgmv.spec import CSGMV_SPECS, NO_LIMIT
from bo_tune.kernels.csgmv.step import EXPAND, KERNELS, SHRINK, CsgmvStep
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.sglang.csgmv import LAUNCHERS, CsgmvLauncher
from bo_tune.kernels.sglang.installed import LOOKUP_FILE, SglangError, file_of, unavailable
from bo_tune.kernels.sglang.operations import operation
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.devices import kernel_source
from bo_tune.measure.source import SGLANG, default_config, operations_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")]

H200 = GpuInfo("NVIDIA H200", (9, 0), sm_count=132, shared_memory_bytes=232448)


@pytest.fixture(autouse=True)
def _sm_90(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)
    with importable(sglang_folder()):
        yield


def test_the_engines_version_is_named() -> None:
    assert {operation(kernel).source for kernel in KERNELS} == {f"sglang {VERSION}"}
    assert kernel_source("sglang") == SGLANG


def test_the_kernels_are_given_what_the_engine_gives_them() -> None:
    inputs = assemble(qkv(SHRINK), [0] * 20 + [3] * 12)
    call = operation(SHRINK).call(inputs, CONFIGS[SHRINK], H100)
    assert call.grid == (3, 3), "16 columns a program; two chunks of one adapter, and one of another"
    given = call.parameters
    assert (given["N"], given["K"], given["NUM_SLICES"], given["BLOCK_M"]) == (48, 4096, 3, 16)
    assert given["output"] is inputs.out
    assert given["num_segs"] == 3
    inputs = assemble(qkv(EXPAND), [0] * 20 + [3] * 12)
    call = operation(EXPAND).call(inputs, CONFIGS[EXPAND], H100)
    assert call.grid == (6144 // 32, 3)
    given = call.parameters
    assert given["SLICE_OFFSETS"] == (0, 4096, 5120, 6144)
    assert (given["OUTPUT_DIM"], given["MAX_RANK"], given["output_stride_0"]) == (6144, 16, 6144)
    assert given["output"] is inputs.out


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_config_runs_as_it_is(kernel: str) -> None:
    op, step = operation(kernel), qkv(kernel)
    for config in list(kernel_spec(kernel).search_space)[::7]:
        assert op.effective_config(step.problem, config, H100) == config


def test_no_limit_is_left_to_the_compiler() -> None:
    op, inputs = operation(EXPAND), assemble(qkv(EXPAND))
    assert "maxnreg" not in op.call(inputs, CONFIGS[EXPAND], H100).options
    assert op.call(inputs, {**CONFIGS[EXPAND], "maxnreg": 96}, H100).options["maxnreg"] == 96


CHUNKED = st.builds(
    qkv,
    st.sampled_from(KERNELS),
    chunk=st.sampled_from([16, 32]),
    m=st.sampled_from([1, 16, 24, 100]),
    adapters=st.sampled_from([1, 4]),
)


@pytest.mark.usefixtures("hashes_alone")
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=st.tuples(CHUNKED, CHUNKED))
def test_keys_are_equal_exactly_for_the_same_binaries(steps: tuple[CsgmvStep, CsgmvStep]) -> None:
    keys = [operation(s.kernel).compile_key(s.problem, CONFIGS[s.kernel], H100) for s in steps]
    binaries = [[b.hash for b in operation(s.kernel).compile(s.problem, CONFIGS[s.kernel])] for s in steps]
    assert (keys[0] == keys[1]) == (binaries[0] == binaries[1])


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ((16, 256, 4, 3), {}),
        ((32, 128, 4, 4), {}),
        ((32, 128, 4, 4), {"chunk": 128}),
        ((64, 64, 8, 2), {"k": 1000}),
        ((16, 64, 2, 5), {}),
    ],
    ids=str,
)
def test_shrink_needs_the_shared_memory_foreseen(values: tuple[int, ...], changes: dict[str, int]) -> None:
    _check_shared_memory(qkv(SHRINK, **changes), dict(zip(CONFIGS[SHRINK], values, strict=True)))


@pytest.mark.parametrize("values", [(64, 16, 4, 3), (32, 16, 4, 1), (64, 64, 8, 2)], ids=str)
@pytest.mark.parametrize("chunk", [16, 32])
def test_expand_needs_the_shared_memory_foreseen(values: tuple[int, ...], chunk: int) -> None:
    _check_shared_memory(qkv(EXPAND, chunk=chunk), dict(zip(CONFIGS[EXPAND], (*values, NO_LIMIT), strict=True)))


def _check_shared_memory(step: CsgmvStep, config: dict[str, int]) -> None:
    (binary,) = operation(step.kernel).compile(step.problem, config)
    assert 0 < kernel_spec(step.kernel).shared_memory_bytes(config, step.problem, H100) <= binary.metadata.shared


def test_tokens_are_cut_into_chunks_as_sglang_documents_it() -> None:
    """The examples of ``_get_permutation`` and ``_get_segments_info``, tokens by tokens."""
    chunks = Chunks.of(torch.tensor([0, 0, 1, 0, 0, 0], dtype=torch.int32), 3)
    assert chunks.tokens.tolist() == [0, 1, 3, 4, 5, 2]
    assert chunks.adapters.tolist() == [0, 0, 1]
    assert chunks.starts.tolist() == [0, 3, 5, 6]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_default_is_what_the_engine_ships_for_the_gpu_and_else_its_rule(kernel: str) -> None:
    spec = kernel_spec(kernel)
    rule = spec.default_config(qkv(kernel).problem)
    assert default_config(SGLANG, spec, qkv(kernel).problem, H200) == rule, "nothing is shipped for rank 16"
    shape: dict[str, Any] = {"k": 1024} if kernel == SHRINK else {"widths": (2048, 1024, 1024)}
    shipped = qkv(kernel, rank=64, **shape)
    assert default_config(SGLANG, spec, shipped.problem, H100) == rule, "nor for another GPU"
    found = default_config(SGLANG, spec, shipped.problem, H200)
    assert found != rule
    if kernel == EXPAND:
        assert found["maxnreg"] == 160
        larger = qkv(kernel, rank=64, chunk=32, **shape)
        assert default_config(SGLANG, spec, larger.problem, H200)["maxnreg"] == NO_LIMIT


def test_every_config_that_is_shipped_is_on_the_grid() -> None:
    shipped = sorted((file_of(LOOKUP_FILE).parent / "csgmv_configs").rglob("*.json"))
    assert len(shipped) == 7
    for path in shipped:
        spec = kernel_spec(SHRINK if "shrink" in path.name else EXPAND)
        for config in json.loads(path.read_text()).values():
            whole = {**spec.default_config(qkv(spec.name).problem), **config}
            assert whole in list(spec.search_space)


def test_the_rules_restated_are_the_engines() -> None:
    said = {}
    for node in ast.parse(file_of(LOOKUP_FILE).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            said[node.targets[0].id] = node.value
    for spec in CSGMV_SPECS:
        rule = ast.literal_eval(said[f"DEFAULT_{spec.name.partition('_')[2].upper()}_CONFIG"])
        assert {name: spec.engine_default[name] for name in rule} == rule


def made_up(folder: Path, body: str) -> Path:
    """A package called sglang whose module of shrink is this."""
    file = folder / "sglang" / LAUNCHERS[SHRINK][0]
    file.parent.mkdir(parents=True)
    (folder / "sglang" / "__init__.py").write_text("")
    said = folder / "sglang-9.9.dist-info"
    said.mkdir()
    (said / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 9.9\n")
    file.write_text(body)
    return folder


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "KeyError: 'chunked_sgmv_lora_shrink_forward'"),
        ("def chunked_sgmv_lora_shrink_forward():\n    pass\n", "KeyError: '_chunked_lora_shrink_kernel'"),
        ("@missing\ndef chunked_sgmv_lora_shrink_forward():\n    pass\n", "NameError: name 'missing' is not defined"),
    ],
)
def test_an_sglang_without_the_kernel_is_refused_by_its_version(tmp_path: Path, body: str, reason: str) -> None:
    with importable(made_up(tmp_path, body)), pytest.raises(SglangError, match=f"^sglang 9.9: .*{reason}"):
        CsgmvLauncher(SHRINK)


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        ("pass", r"looks its config up under \[\], instead of once under {'K': 1}"),
        ("get_lora_shrink_config(K=1)", "launches 0 kernels instead of one"),
        ("given.nothing", "AttributeError: 'dict' object has no attribute 'nothing'"),
    ],
)
def test_a_launcher_that_does_something_else_is_refused(tmp_path: Path, launch: str, reason: str) -> None:
    body = (
        "@triton.jit\ndef _chunked_lora_shrink_kernel(a):\n    pass\n"
        f"def chunked_sgmv_lora_shrink_forward(**given):\n    _chunked_lora_shrink_kernel\n    {launch}\n"
    )
    with importable(made_up(tmp_path, body)), pytest.raises(SglangError, match=reason):
        CsgmvLauncher(SHRINK).capture({"x": torch.ones(1)}, {}, {"K": 1})


def test_an_sglang_without_the_modules_says_so(tmp_path: Path) -> None:
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "__init__.py").write_text("")
    with importable(tmp_path):
        assert "where its csgmv kernels should be" in (unavailable() or "")
        with pytest.raises(DeviceError, match="--kernels sglang: "):
            kernel_source("sglang")


def test_other_kernels_are_not_sglangs() -> None:
    with pytest.raises(
        InputError, match="expected an SGLang kernel that bo_tune tunes, csgmv_shrink or csgmv_expand, got lora_shrink"
    ):
        operations_of(SGLANG)("lora_shrink")
