"""Users' kernels under Triton's interpreter, checked as the GPU process checks them. Run by ``test_user_interpreted``.

Triton decides on its interpreter when a kernel is defined, so TRITON_INTERPRET must be set before anything of the
package is imported.
"""

import os
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

import torch
import triton
import triton.language as tl
import tutorial_softmax
from decorated_kernels import add_up, affine, by_block_shapes, by_hook
from field_kernels import ALL, SIZES
from helpers import ROOT
from user_kernels import add_scaled

import bo_tune
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user.definition import Definition
from bo_tune.kernels.user.operation import operation_of
from bo_tune.processes.importing import import_source


def checked(kernel: Definition, sizes: dict[str, object], params: dict[str, object]) -> Verdict:
    """Check a config as the GPU process does, before and after launches that are timed."""
    problem = SizedProblem(kernel.name, tuple(sizes.items()))  # type: ignore[arg-type]
    operation, config = operation_of(kernel, Path(__file__)), kernel.encode(params, "here")  # type: ignore[arg-type]
    inputs = operation.make_inputs(problem, seed=0, device=torch.device("cpu"))
    right = operation.right(inputs)
    verdicts = set()
    for _ in range(2):  # the second time as the first, whatever the first left
        operation.poison(inputs)
        operation.launch(inputs, config)
        verdicts.add(operation.judge(inputs, right))
        operation.reset(inputs)
        for _ in range(2):
            operation.restore(inputs)
            operation.launch(inputs, config)
    (verdict,) = verdicts
    return verdict


def error_of(kernel: Definition, sizes: dict[str, object], params: dict[str, object]) -> float:
    verdict = checked(kernel, sizes, params)
    assert not verdict.wrong
    assert verdict.error is not None
    return verdict.error


def example(name: str) -> Definition:
    module = import_source(str(ROOT / "examples" / f"{name}.py"))
    return next(value for value in vars(module).values() if isinstance(value, Definition))


@pytest.mark.parametrize(("rows", "cols"), [(4, 64), (8, 1000), (4, 1500)])
@pytest.mark.parametrize("block", [512, 2048])
def test_softmax(rows: int, cols: int, block: int) -> None:
    params = {"ROWS": 2, "BLOCK": block, "num_warps": 4, "num_stages": 1}
    assert error_of(example("softmax"), {"rows": rows, "cols": cols}, params) <= 1e-3


@pytest.mark.parametrize("sizes", [(64, 64, 64), (70, 50, 40), (200, 33, 100)])
def test_matmul(sizes: tuple[int, int, int]) -> None:
    params = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32, "GROUP_M": 4, "num_warps": 4, "num_stages": 2}
    named = {**dict(zip("MNK", sizes, strict=True)), "dtype": "float16"}
    assert error_of(example("matmul"), named, params) <= 1e-3


@pytest.mark.parametrize(("rows", "cols"), [(5, 64), (40, 100)])
@pytest.mark.parametrize("groups", [16, 32])
def test_two_kernels_with_scratch_between_them(rows: int, cols: int, groups: int) -> None:
    params = {"GROUPS": groups, "num_warps": 4, "SUM_ROWS": 16, "SUM_COLS": 64, "sum_warps": 4}
    assert error_of(example("layer_norm"), {"rows": rows, "cols": cols}, params) <= 2e-3


@pytest.mark.parametrize("split", [1, 2, 4])
@pytest.mark.parametrize("sizes", [(16, 64, 256), (20, 50, 300)])
def test_as_many_kernels_and_as_much_scratch_as_the_config_says(split: int, sizes: tuple[int, int, int]) -> None:
    params = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 64, "SPLIT_K": split, "num_warps": 4, "num_stages": 2}
    assert error_of(example("split_k"), dict(zip("MNK", sizes, strict=True)), params) <= 2e-3


@pytest.mark.parametrize("programs", [1, 4])
def test_an_operation_that_returns_its_output_is_held_against_its_default(programs: int) -> None:
    params = {"PROGRAMS": programs, "num_stages": 2, "num_warps": 4}
    assert checked(tutorial_softmax.persistent, {"rows": 9, "cols": 100}, params) == Verdict(0.0)


@pytest.mark.parametrize("stages", [2, 4])
def test_a_kernel_with_a_parameter_called_num_stages(stages: int) -> None:
    params = {"num_stages": stages, "num_warps": 4}
    assert error_of(tutorial_softmax.softmax, {"rows": 9, "cols": 100}, params) <= 1e-6
    assert "elements are wrong" in checked(tutorial_softmax.loose, {"rows": 9, "cols": 100}, params).wrong


FIELD = [(name, sizes) for name, some in SIZES.items() for sizes in some]


@pytest.mark.parametrize(("name", "sizes"), FIELD, ids=str)
def test_kernels_of_the_sorts_that_people_tune(name: str, sizes: dict[str, object]) -> None:
    kernel = ALL[name]
    default = kernel.default_params(SizedProblem(name, tuple(sizes.items())))  # type: ignore[arg-type]
    other = {name: values.values[0] for name, values in kernel.values.items()}
    for params in (dict(default), other):
        assert error_of(kernel, sizes, params) <= 2e-3


@pytest.mark.parametrize("block", [64, 1024])
@pytest.mark.parametrize("n", [128, 200])
def test_a_kernel_under_autotune_and_heuristics(n: int, block: int) -> None:
    params = {"BLOCK": block, "num_warps": 4, "num_stages": 3}
    assert error_of(add_up, {"n": n}, params) <= 1e-5


@pytest.mark.parametrize("side", [16, 32])
def test_descriptors_whose_blocks_follow_the_config(side: int) -> None:
    params = {"BLOCK_M": 64, "BLOCK_N": side, "BLOCK_K": 32}
    assert error_of(by_block_shapes, {"n": 64}, params) <= 2e-3
    hooked = {"BLOCK_M": 64 if side == 32 else 16, "BLOCK_N": side, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}
    assert error_of(by_hook, {"n": 64}, hooked) <= 2e-3


@pytest.mark.parametrize("bias", [False, True])
def test_none_dtypes_and_tuples_among_arguments_and_values(bias: bool) -> None:
    params = {**affine.default, "maxnreg": 32, "launch_pdl": True}  # type: ignore[dict-item]
    assert checked(affine, {"n": 100, "bias": bias}, params) == Verdict(0.0)
    other = {**params, "SHAPE": (4, None)}
    assert "elements are wrong" in checked(affine, {"n": 100, "bias": bias}, other).wrong


@triton.jit
def step_kernel(x, y, count, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(y + place, tl.load(x + place))
    tl.store(x + place, tl.load(x + place) + 1)
    tl.store(count, tl.load(count) + 1)


step = bo_tune.Kernel(
    step_kernel,
    space={"BLOCK": (64,)},
    inputs=lambda sizes, device: {
        "x": torch.randn(64, device=device),
        "y": torch.empty(64, device=device),
        "count": torch.zeros(1, dtype=torch.int32, device=device),
    },
    grid=lambda sizes, config: 1,
    output=("y", "count"),
    in_place="count",
    reference=lambda arguments: (arguments["x"].clone(), arguments["count"].add_(1)),
)


def test_a_kernel_that_writes_what_it_reads() -> None:
    assert checked(step, {"n": 64}, {"BLOCK": 64}) == Verdict(0.0)


@pytest.mark.parametrize("skip", [0, 1])
def test_a_kernel_that_adds_to_its_output(skip: int) -> None:
    params = {"BLOCK": 64, "CLAMP": False, "MODE": "single", "num_warps": 4, "OFF": 0}
    sizes = {"n": 100, "skip": skip, "dtype": "float32"}
    assert error_of(add_scaled, sizes, params) <= 1e-6
    assert "elements are wrong" in checked(add_scaled, sizes, {**params, "MODE": "double"}).wrong
    assert "elements are wrong" in checked(add_scaled, sizes, {**params, "OFF": -1}).wrong
