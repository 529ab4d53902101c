"""What is known of the kernels before compiling, against the recorded grids."""

import gzip
import json
import subprocess
import sys
import time
from functools import cache, partial
from math import inf
from pathlib import Path

import numpy as np
import pytest

from bo_tune.core.problem import Experts, GpuInfo, LoraProblem
from bo_tune.core.space import config_key
from bo_tune.errors import InputError
from bo_tune.formats.recording_format import problem_of
from bo_tune.kernels.moe.spec import MOE_SPECS
from bo_tune.kernels.registry import KERNELS, kernel_spec

BUNDLED = Path(__file__).parents[2] / "studies" / "recordings"
DENSE = sorted(BUNDLED.glob("*.t4.json.gz"))
RECORDINGS = [*DENSE, *sorted((BUNDLED / "moe").glob("*.t4.json.gz"))]
COUNTED = 250_000
H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)


@cache
def recorded(path):
    """A recording's problem and its results."""
    content = json.loads(gzip.decompress(path.read_bytes()))
    return problem_of(content["metadata"]), content["results"]


def of_kernel(name):
    return [path for path in RECORDINGS if name in path.name]


each_recording = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.removesuffix(".t4.json.gz"))


def test_recordings_are_there():
    assert len(DENSE) == 8
    assert len(RECORDINGS) == 20


@each_recording
def test_search_space_reaches_further_than_the_recorded_grid(path):
    """The best recorded configs lie on its edges."""
    problem, results = recorded(path)
    space = kernel_spec(problem.kernel).search_space
    configs = {config_key(result["configuration"]) for result in results}
    assert configs < set(space.keys)
    assert len(configs) == len(results)
    assert tuple(results[0]["configuration"]) == space.names


@each_recording
def test_no_valid_measurement_is_declared_impossible(path):
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    valid = [result["configuration"] for result in results if result["invalidity"] == "correct"]
    assert not [config for config in valid if spec.impossible(config, problem, H100)]


@each_recording
def test_every_recorded_lack_of_shared_memory_is_foreseen(path):
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    lacking = [result["configuration"] for result in results if result["invalidity"] == "runtime"]
    assert lacking or "fused_moe_lora_w13_expand" in path.name or "fused_moe_lora_w2_expand" in path.name
    assert all(spec.impossible(config, problem, H100) for config in lacking)


@each_recording
def test_shared_memory_is_a_lower_bound(path):
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    for result in results:
        if result["invalidity"] != "timeout":
            measured = next(m["value"] for m in result["measurements"] if m["name"] == "shared_memory")
            assert spec.shared_memory_bytes(result["configuration"], problem) <= measured


@each_recording
def test_hopeless_configs_are_far_from_the_best(path):
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    times = [
        (measurement["value"], spec.hopeless(result["configuration"]))
        for result in results
        if result["invalidity"] == "correct"
        for measurement in result["measurements"]
        if measurement["name"] == "time"
    ]
    best = min(time for time, _ in times)
    assert min((time for time, hopeless in times if hopeless), default=inf) > 1.5 * best


@each_recording
def test_features_are_finite_named_and_independent_of_the_company(path):
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    configs = [result["configuration"] for result in results]
    table = spec.features(configs, problem, H100)
    assert table.shape == (len(configs), len(spec.feature_names))
    assert len(set(spec.feature_names)) == len(spec.feature_names)
    assert np.isfinite(table).all()
    np.testing.assert_allclose(spec.features(configs[7:8], problem, H100)[0], table[7])
    np.testing.assert_allclose(spec.features([spec.default_config(problem)], problem, H100).shape, (1, table.shape[1]))


@each_recording
def test_features_tell_slow_from_fast(path):
    """The bytes moved per multiprocessor alone rank the configs roughly: a guard against a feature gone wrong."""
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    valid = [result for result in results if result["invalidity"] == "correct"]
    times = [m["value"] for result in valid for m in result["measurements"] if m["name"] == "time"]
    table = spec.features([result["configuration"] for result in valid], problem, H100)
    traffic = table[:, spec.feature_names.index("log2 bytes per SM")]
    assert np.corrcoef(traffic, np.log2(times))[0, 1] > 0.3


def seconds_of(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_features_of_a_whole_grid_take_milliseconds(kernel):
    """0.0015 s on a quiet machine; measured in turn with what takes about 0.006 s there, as a loaded one slows both."""
    problem, _ = recorded(of_kernel(kernel)[0])
    spec = kernel_spec(kernel)
    configs = list(spec.search_space)
    features = partial(spec.features, configs, problem, H100)
    yardstick = partial(sum, range(COUNTED))
    seconds = [(seconds_of(features), seconds_of(yardstick)) for _ in range(10)]
    assert min(one for one, _ in seconds) < min(one for _, one in seconds)


def test_features_follow_the_gpu():
    problem, results = recorded(of_kernel("lora_shrink")[0])
    spec = kernel_spec("lora_shrink")
    half = GpuInfo("half", (9, 0), sm_count=66, shared_memory_bytes=232448)
    configs = [results[0]["configuration"]]
    waves = spec.feature_names.index("log2 waves")
    difference = spec.features(configs, problem, half)[0, waves] - spec.features(configs, problem, H100)[0, waves]
    assert difference == pytest.approx(1)


def test_default_configs_are_those_of_the_engine():
    shrink, expand = kernel_spec("lora_shrink"), kernel_spec("lora_expand")
    tile = {"block_m": 32, "block_n": 16, "num_warps": 4, "num_stages": 2, "num_ctas": 1}
    small, large = LoraProblem("lora_shrink", 4, 1, 127, 4096, 16), LoraProblem("lora_shrink", 4, 1, 128, 4096, 16)
    assert shrink.default_config(small) == {**tile, "block_k": 256, "split_k": 64}
    assert shrink.default_config(large) == {**tile, "block_k": 32, "split_k": 8}
    tile = {"block_m": 64, "block_k": 32, "num_warps": 4, "num_stages": 2, "num_ctas": 1}
    assert expand.default_config(LoraProblem("lora_expand", 4, 1, 1, 16, 4096)) == {**tile, "block_n": 128}
    assert expand.default_config(LoraProblem("lora_expand", 4, 2, 1, 16, 4096)) == {**tile, "block_n": 64}


def test_keys_and_files_are_those_the_engine_looks_up():
    shrink = LoraProblem("lora_shrink", 4, 3, 16, 4096, 64)
    assert kernel_spec("lora_shrink").table_key(shrink) == ("5", "3", "16", "4096", "64")
    assert kernel_spec("lora_shrink").file_stem(shrink) == "SHRINK"
    expand = LoraProblem("lora_expand", 1, 1, 8, 16, 4096, add_inputs=True)
    assert kernel_spec("lora_expand").table_key(expand) == ("2", "1", "8", "16", "4096")
    assert kernel_spec("lora_expand").file_stem(expand) == "EXPAND_TRUE"
    overwrite = LoraProblem("lora_expand", 1, 1, 8, 16, 4096, add_inputs=False)
    assert kernel_spec("lora_expand").file_stem(overwrite) == "EXPAND_FALSE"


QWEN_3 = {"max_loras": 4, "m": 16, "k": 16, "n": 2048, "i": 768, "experts": Experts(128, 8)}
MOE = [name for name in KERNELS if "moe" in name]
MS = (16, 256, 2048)


def moe_problem(kernel, **changes):
    return LoraProblem(kernel, **{**QWEN_3, "num_slices": 2 if "w13" in kernel else 1, **changes})


def test_default_configs_of_the_moe_kernels_are_those_of_an_engine_without_tuned_files():
    """What vLLM 0.33.0 runs of the base model's experts where it ships no file, bounded by the rank."""
    small = {"block_m": 16, "group_size_m": 1, "num_warps": 4, "num_stages": 4}
    large = {"block_m": 128, "group_size_m": 1, "num_warps": 8, "num_stages": 3}
    for part in ("w13", "w2"):
        for rank, narrow, short in ((8, 8, 16), (16, 16, 16), (24, 32, 32), (256, 64, 128)):
            shrink = moe_problem(f"fused_moe_lora_{part}_shrink", k=rank)
            default = kernel_spec(shrink.kernel).default_config(shrink)
            assert default == {**small, "block_n": narrow, "block_k": 128, "split_k": 1}
            expand = moe_problem(f"fused_moe_lora_{part}_expand", k=rank)
            assert kernel_spec(expand.kernel).default_config(expand) == {**small, "block_n": 64, "block_k": short}
        wide = moe_problem(f"fused_moe_lora_{part}_expand", m=2048, k=256)
        assert kernel_spec(wide.kernel).default_config(wide) == {**large, "block_n": 128, "block_k": 64}
    decided = {m: kernel_spec("fused_moe_lora_w13").default_config(moe_problem("fused_moe_lora_w13", m=m)) for m in MS}
    assert decided == {16: {"block_m": 16}, 256: {"block_m": 64}, 2048: {"block_m": 128}}


@pytest.mark.parametrize("kernel", MOE)
def test_moe_keys_have_a_sixth_level_and_the_engines_own_max_loras(kernel):
    slices = "2" if "w13" in kernel else "1"
    assert kernel_spec(kernel).table_key(moe_problem(kernel)) == ("4", slices, "16", "16", "2048", "768")
    assert kernel_spec(kernel).file_stem(moe_problem(kernel)) == kernel.upper()


def test_products_of_the_moe_kernels_follow_from_their_keys():
    """As recorded, and for adapters whose rank, and w2's output, two ranks of the GPUs share."""
    found = {name: kernel_spec(name) for name in MOE}
    sizes = {n: (s.product_length(moe_problem(n)), s.product_width(moe_problem(n))) for n, s in found.items()}
    assert list(sizes.values()) == [(2048, 16), (16, 768), (768, 16), (16, 2048)]
    shared = Experts(128, 8, shards=2)
    split = {n: moe_problem(n, k=8 if "w13" in n else 16, experts=shared) for n in MOE}
    sizes = {n: (s.product_length(split[n]), s.product_width(split[n])) for n, s in found.items()}
    assert list(sizes.values()) == [(2048, 8), (16, 768), (768, 16), (16, 1024)]


def test_the_moe_kernels_of_one_layer_and_step_belong_together():
    problems = [moe_problem(name) for name in MOE]
    shared = [moe_problem(n, k=8 if "w13" in n else 16, experts=Experts(128, 8, shards=2)) for n in MOE]
    for group in (problems, shared):
        assert len({kernel_spec(p.kernel).joint_group(p) for p in group}) == 1
    others = [{"m": 17}, {"k": 32}, {"i": 384}, {"max_loras": 2}, {"dtype": "float16"}, {"experts": Experts(64, 8)}]
    groups = {kernel_spec(MOE[0]).joint_group(moe_problem(MOE[0], **change)) for change in ({}, *others)}
    assert len(groups) == 1 + len(others)
    assert kernel_spec("lora_shrink").joint_group(LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)) is None


def test_moe_features_count_the_blocks_that_adapters_and_experts_fill():
    """Few tokens: each has its block, whatever its size. Many: as many blocks as the tokens fill, and half a one."""
    spec, config = kernel_spec(MOE[0]), {**kernel_spec(MOE[0]).default_config(moe_problem(MOE[0])), "block_n": 16}
    column = spec.feature_names.index("log2 programs")

    def programs(m, block_m):
        table = spec.features([{**config, "block_m": block_m}], moe_problem(MOE[0], m=m), H100)
        return 2 ** table[0, column]

    assert programs(1, 16) == programs(1, 128) == pytest.approx(2 * 8, rel=0.05)
    assert programs(2**20, 128) == pytest.approx(2 * (2**20 * 8 / 128 + 512 / 2), rel=0.01)


def test_a_moe_problem_without_experts_is_refused():
    with pytest.raises(ValueError, match="needs its numbers of experts"):
        kernel_spec(MOE[0]).features([], moe_problem(MOE[0], experts=None), H100)


def test_unknown_kernel_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="lora_shrink, lora_expand"):
        kernel_spec("lora_shrinc")


def test_specs_need_neither_torch_nor_triton():
    code = "import sys, bo_tune.kernels.registry; sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_of_packed_experts_are_of_one_group_though_their_i_differ() -> None:
    experts = Experts(32, 4, packed=True)
    problems = [
        LoraProblem(name, 4, 1, 16, 16, 2880, 5760 if "w13" in name else 2880, experts=experts)
        for name in (spec.name for spec in MOE_SPECS)
    ]
    assert len({kernel_spec(problem.kernel).joint_group(problem) for problem in problems}) == 1
    assert [spec.product_width(p) for spec, p in zip(MOE_SPECS, problems, strict=True)] == [16, 5760, 16, 2880]
    assert [spec.product_length(p) for spec, p in zip(MOE_SPECS, problems, strict=True)] == [2880, 16, 2880, 16]
