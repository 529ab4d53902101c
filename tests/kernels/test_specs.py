"""What is known of the kernels before compiling, against the recorded grids."""

import gzip
import json
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bo_tune.errors import InputError
from bo_tune.kernels.registry import KERNELS, kernel_spec
from bo_tune.problem import GpuInfo, Problem

RECORDINGS = sorted((Path(__file__).parents[2] / "studies" / "recordings").glob("*.t4.json.gz"))
H100 = GpuInfo("NVIDIA H100 80GB HBM3", (9, 0), sm_count=132, shared_memory_bytes=232448)


@cache
def recorded(path):
    """A recording's problem and its results."""
    content = json.loads(gzip.decompress(path.read_bytes()))
    metadata = content["metadata"]
    shape = dict(metadata["shape"], slice_sizes=tuple(metadata["shape"]["slice_sizes"]))
    return Problem(metadata["kernel"], dtype=metadata["dtype"], add_inputs=metadata["add_inputs"], **shape), content[
        "results"
    ]


def of_kernel(name):
    return [path for path in RECORDINGS if name in path.name]


each_recording = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.removesuffix(".t4.json.gz"))


def test_recordings_are_there():
    assert len(RECORDINGS) == 8


@each_recording
def test_search_space_is_the_recorded_grid(path):
    problem, results = recorded(path)
    space = kernel_spec(problem.kernel).search_space
    assert {space.index(result["configuration"]) for result in results} == set(range(len(space)))
    assert tuple(results[0]["configuration"]) == space.names


@each_recording
def test_no_valid_measurement_is_declared_impossible(path):
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    valid = [result["configuration"] for result in results if result["invalidity"] == "correct"]
    assert not [config for config in valid if spec.impossible(config, problem, H100)]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.removesuffix(".t4.json.gz"))
def test_every_recorded_lack_of_shared_memory_is_foreseen(path):
    problem, results = recorded(path)
    spec = kernel_spec(problem.kernel)
    lacking = [result["configuration"] for result in results if result["invalidity"] == "runtime"]
    assert lacking
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
    assert min(time for time, hopeless in times if hopeless) > 1.5 * best


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
    assert np.corrcoef(traffic, np.log2(times))[0, 1] > 0.4


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_features_of_a_whole_grid_take_milliseconds(kernel):
    problem, _ = recorded(of_kernel(kernel)[0])
    spec = kernel_spec(kernel)
    configs = list(spec.search_space)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        spec.features(configs, problem, H100)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.006  # 0.0015 on a quiet machine


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
    small, large = Problem("lora_shrink", 4, 1, 127, 4096, 16), Problem("lora_shrink", 4, 1, 128, 4096, 16)
    assert shrink.default_config(small) == {**tile, "block_k": 256, "split_k": 64}
    assert shrink.default_config(large) == {**tile, "block_k": 32, "split_k": 8}
    tile = {"block_m": 64, "block_k": 32, "num_warps": 4, "num_stages": 2, "num_ctas": 1}
    assert expand.default_config(Problem("lora_expand", 4, 1, 1, 16, 4096)) == {**tile, "block_n": 128}
    assert expand.default_config(Problem("lora_expand", 4, 2, 1, 16, 4096)) == {**tile, "block_n": 64}


def test_keys_and_files_are_those_the_engine_looks_up():
    shrink = Problem("lora_shrink", 4, 3, 16, 4096, 64)
    assert kernel_spec("lora_shrink").table_key(shrink) == ("5", "3", "16", "4096", "64")
    assert kernel_spec("lora_shrink").file_stem(shrink) == "SHRINK"
    expand = Problem("lora_expand", 1, 1, 8, 16, 4096, add_inputs=True)
    assert kernel_spec("lora_expand").table_key(expand) == ("2", "1", "8", "16", "4096")
    assert kernel_spec("lora_expand").file_stem(expand) == "EXPAND_TRUE"
    overwrite = Problem("lora_expand", 1, 1, 8, 16, 4096, add_inputs=False)
    assert kernel_spec("lora_expand").file_stem(overwrite) == "EXPAND_FALSE"


def test_unknown_kernel_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="lora_shrink, lora_expand"):
        kernel_spec("lora_shrinc")


def test_specs_need_neither_torch_nor_triton():
    code = "import sys, bo_tune.kernels.registry; sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
