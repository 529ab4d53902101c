"""The whole path of a user's kernel but the GPU: compilers at work, inputs and references made, studies stored."""

from dataclasses import replace
from pathlib import Path

import pytest
import tutorial_softmax
from helpers import ROOT, sqlite_url, stored_trials
from user_kernels import add_scaled

import bo_tune
from bo_tune.measure.gpu import device as cuda
from bo_tune.processes.importing import import_source

pytestmark = pytest.mark.slow

PROBLEMS = [{"n": 1024, "skip": 0, "dtype": "float16"}, {"n": 1001, "skip": 1, "dtype": "float32"}]
SPACE = {"OFF": (0,), "MODE": ("single",)}


@pytest.fixture(autouse=True)
def _without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "GPU_MODULE", "fake_user_gpu")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def test_a_kernel_of_an_imported_module_is_compiled_measured_and_stored(tmp_path: Path) -> None:
    options = {"storage": sqlite_url(tmp_path / "own.db"), "jobs": 1, "progress": False, "space": SPACE}
    found = bo_tune.tune(add_scaled, PROBLEMS, **options)
    assert [best.problem for best in found] == PROBLEMS
    assert all(
        best.config == {"BLOCK": 256, "CLAMP": True, "MODE": "single", "num_warps": 4, "OFF": 0} for best in found
    )
    assert all(best.compiles > 0 and best.launches > best.launched_configs for best in found)
    assert found[0].gpu == "NVIDIA Fake 1"
    assert " | user_kernels.py " in found[0].study
    trials = stored_trials(tmp_path / "own.db")
    assert {len(some) for some in trials.values()} == {best.configs for best in found}
    assert bo_tune.tune(add_scaled, PROBLEMS, **options) == found
    assert stored_trials(tmp_path / "own.db").keys() == trials.keys()


def test_every_config_of_a_small_space_is_tried_once(tmp_path: Path) -> None:
    (best,) = bo_tune.grid(add_scaled, PROBLEMS[:1], jobs=1, progress=False, space=SPACE)
    assert best.configs >= 3 * 2 * 2
    assert best.study.endswith(" | grid")
    assert best.certificate is None


def test_two_kernels_over_one_function_have_inputs_and_a_study_each(tmp_path: Path) -> None:
    options = {"storage": sqlite_url(tmp_path / "own.db"), "jobs": 1, "progress": False}
    problems = [{"rows": 8, "cols": 100}]
    found = [
        bo_tune.tune(kernel, problems, **options)[0] for kernel in (tutorial_softmax.softmax, tutorial_softmax.loose)
    ]
    assert [best.kernel for best in found] == ["softmax", "loose"]
    assert [best.configs for best in found] == [4, 1]
    assert [best.study.partition(" | ")[0] for best in found] == ["softmax", "loose"]
    assert len({best.study.split(" | ")[3] for best in found}) == 2, "one kernel source for both"
    assert len(stored_trials(tmp_path / "own.db")) == 2


def test_an_operation_of_two_kernels_is_compiled_measured_and_stored(tmp_path: Path) -> None:
    split_k = import_source(str(ROOT / "examples" / "split_k.py")).split_k
    space = {"BLOCK_M": (16,), "BLOCK_N": (32,), "BLOCK_K": (64,), "num_stages": (2,)}
    options = {"storage": sqlite_url(tmp_path / "own.db"), "jobs": 1, "progress": False}
    (best,) = bo_tune.grid(split_k, [{"M": 16, "N": 64, "K": 256}], space=space, **options)
    assert best.kernel == "split_k"
    assert best.config["num_warps"] == 4
    assert best.configs == 6 + 1, "three ways to split of at most 256 / 64, with 4 warps or 8; and the default"
    assert best.compiles == best.configs
    assert " | split_k.py " in best.study


misspelt = replace(tutorial_softmax.persistent, name="misspelt", run=lambda arguments, config, gpu: config["WARPS"])


def test_what_is_wrong_with_run_is_said_in_one_line_before_anything_is_launched() -> None:
    with pytest.raises(bo_tune.InputError, match=r"misspelt: run: KeyError: 'WARPS'"):
        bo_tune.tune(misspelt, [{"rows": 8, "cols": 100}], jobs=1, progress=False)


def test_what_is_wrong_with_the_inputs_is_said_in_one_line() -> None:
    with pytest.raises(bo_tune.InputError, match=r"add_scaled: inputs: .*KeyError: 'dtype'"):
        bo_tune.tune(add_scaled, [{"n": 1024, "skip": 0}], jobs=1, progress=False)
