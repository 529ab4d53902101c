"""Users' kernels tuned on the GPU at hand: results are right, and what was compiled ahead is what is launched."""

from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from helpers import ROOT, sqlite_url, stored_trials
from user_kernels import add_scaled

import bo_tune
from bo_tune.core.outcome import InvalidReason, Measurement
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.user.definition import Definition
from bo_tune.kernels.user.identity.home import home_of
from bo_tune.measure.device import Compiled
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.processes.importing import import_source
from bo_tune.store.trials import REASON

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

CASES = {
    "softmax": ([{"rows": 1024, "cols": 1024}, {"rows": 64, "cols": 5000}], {}),
    "matmul": (
        [{"M": 512, "N": 512, "K": 512, "dtype": "float16"}, {"M": 100, "N": 300, "K": 200, "dtype": "bfloat16"}],
        {"BLOCK_M": (32, 64, 128), "BLOCK_N": (32, 64, 128)},
    ),
    "layer_norm": ([{"rows": 512, "cols": 1024}, {"rows": 100, "cols": 3000}], {}),
    "split_k": ([{"M": 16, "N": 1024, "K": 4096}, {"M": 20, "N": 300, "K": 1000}], {}),
}


def kernel_of(example: str) -> Definition:
    module = import_source(str(ROOT / "examples" / f"{example}.py"))
    return next(value for value in vars(module).values() if isinstance(value, Definition))


@pytest.mark.parametrize("example", CASES)
def test_an_example_is_tuned_and_every_config_is_right(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    problems, space = CASES[example]
    url = sqlite_url(tmp_path / "own.db")
    found = bo_tune.tune(kernel_of(example), problems, storage=url, budget=10, space=space)
    assert [best.problem for best in found] == problems
    for best in found:
        assert best.launched_configs <= 10
        assert best.default_time_us is not None
        assert 0 < best.time_us <= best.default_time_us
    trials = [trial for some in stored_trials(tmp_path / "own.db").values() for trial in some]
    reasons = {trial.user_attrs.get(REASON) for trial in trials}
    assert not reasons & {InvalidReason.WRONG_RESULT, InvalidReason.LAUNCH_ERROR, InvalidReason.COMPILE_ERROR}
    again = bo_tune.tune(kernel_of(example), problems, storage=url, budget=10, space=space)
    assert again == found


@triton.jit
def step_kernel(x, y, count, n, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + place, mask=place < n)
    tl.store(y + place, values, mask=place < n)
    tl.store(x + place, values + 1, mask=place < n)
    tl.atomic_add(count + place, 1, mask=place < 1)


def stepped(arguments: dict[str, Any]) -> None:
    arguments["count"] += 1
    arguments["y"][: arguments["n"]] = arguments["x"]


step = bo_tune.Kernel(
    step_kernel,
    space={"BLOCK": (64, 128, 256), "num_warps": (1, 4)},
    inputs=lambda sizes, device: {
        "x": torch.randn(sizes["n"], device=device),
        "y": torch.empty(sizes["n"] + 64, device=device),
        "count": torch.zeros(1, dtype=torch.int32, device=device),
        "n": sizes["n"],
    },
    grid=lambda sizes, config: triton.cdiv(sizes["n"], config["BLOCK"]),
    output=("y", "count"),
    in_place="count",
    reference=stepped,
)


@pytest.mark.parametrize("timing", ["cold", "warm", "graph"])
def test_a_kernel_that_writes_what_it_reads_and_leaves_padding_is_right_with_every_config(timing: str) -> None:
    (best,) = bo_tune.grid(step, [{"n": 5000}], timing=timing)
    assert best.configs == best.launched_configs == 6
    assert best.default_time_us is not None


@pytest.mark.parametrize(
    ("used", "told"),
    [
        ("triton.runtime.driver.active.get_active_torch_device()", "uses the GPU"),
        ("ctypes.CDLL('libcuda.so.1').cuInit(0)", "uses the GPU"),
        ("triton.runtime.driver.active.utils.get_device_properties(0)", "needs a GPU"),  # nobody called cuInit
    ],
    ids=["through torch", "through the driver", "through Triton's driver alone"],
)
def test_a_module_that_uses_the_gpu_at_import_is_told(used: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "tutorial.py"
    path.write_text(f"import ctypes\nimport triton\nUSED = {used}\n")
    with pytest.raises(bo_tune.InputError, match=rf"tutorial\.py {told} while it is imported"):
        GpuDevice(0, source=str(path), compile_workers=1)


@pytest.mark.parametrize("skip", [0, 1], ids=["aligned", "a view off alignment"])
def test_what_was_compiled_ahead_is_what_is_launched(
    skip: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "triton"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    problem = SizedProblem("add_scaled", (("n", 1000), ("skip", skip), ("dtype", "float32")))
    device = GpuDevice(0, source=home_of(add_scaled), compile_workers=1)
    try:
        for clamp, mode in ((True, "double"), (False, "single")):
            params = {"BLOCK": 128, "CLAMP": clamp, "MODE": mode, "num_warps": 4, "OFF": 0}
            config = add_scaled.encode(params, "here")
            build = device.compile(problem, config).result(120)
            assert isinstance(build, Compiled)
            before = set(cache.rglob("*.cubin"))
            assert build.entry in {path.parent.name for path in before}
            outcome = device.measure(problem, config, build, stop_above_us=None)
            assert set(cache.rglob("*.cubin")) == before  # nothing was compiled for the launch
            if mode == "single":
                assert isinstance(outcome, Measurement), outcome
            else:  # twice the reference's share: found out by the check
                assert getattr(outcome, "reason", None) is InvalidReason.WRONG_RESULT
    finally:
        device.close()
