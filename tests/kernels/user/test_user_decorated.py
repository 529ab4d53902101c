"""Kernels under Triton's decorators, with descriptors and all values and launch options that Triton takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import decorated_kernels
import pytest
import torch
import triton
import triton.language as tl
from decorated_kernels import add_up, add_up_kernel, affine, by_block_shapes, by_hook
from helpers import H100
from triton.backends.compiler import GPUTarget
from triton.tools.tensor_descriptor import TensorDescriptor

from bo_tune import InputError, Kernel
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.user.call import call_of
from bo_tune.kernels.user.check.memory import Memory, copied, tensor_of
from bo_tune.kernels.user.decorated import launch_options
from bo_tune.kernels.user.operation import UserKernel, operations_in
from bo_tune.kernels.user.spec import UserSpec
from bo_tune.measure.compile.offline_driver import activate

HERE, CPU = Path(__file__), torch.device("cpu")
TOTAL = SizedProblem("add_up_kernel", (("n", 200),))
PRODUCT = SizedProblem("product", (("n", 64),))


def affine_problem(bias: bool = False) -> SizedProblem:
    return SizedProblem("affine", (("n", 100), ("bias", bias)))


@pytest.fixture
def _sm_90(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where nothing is said
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)


def test_an_autotuner_s_configs_are_the_space_and_its_pruning_says_which_are_valid() -> None:
    spec = UserSpec(add_up, frozenset({"n"}))
    assert {name: values.values for name, values in add_up.values.items()} == {
        "BLOCK": (64, 128, 1024), "num_warps": (2, 4), "num_stages": (3,)
    }  # fmt: skip
    allowed = [add_up.decode(config)["BLOCK"] for config in spec.search_space if spec.allows(config, TOTAL)]
    assert sorted(allowed) == [64, 64, 128, 128]
    assert add_up.decode(spec.default_config(TOTAL)) == {"BLOCK": 64, "num_warps": 2, "num_stages": 3}
    assert (add_up.zero, add_up.read_outputs, add_up.name) == (("total",), ("x",), "add_up_kernel")


def test_what_a_performance_model_ranks_low_is_pruned() -> None:
    tuner = triton.autotune(
        list(add_up_kernel.configs),
        key=["n"],
        prune_configs_by={"perf_model": lambda n, BLOCK, num_warps, **_: -BLOCK * num_warps + n, "top_k": 2},
    )(add_up_kernel.fn)
    ranked = replace(add_up, function=tuner)
    spec = UserSpec(ranked, frozenset({"n"}))
    assert [ranked.decode(c)["BLOCK"] for c in spec.search_space if spec.allows(c, TOTAL)] == [1024, 1024]


def test_a_space_of_one_s_own_replaces_the_autotuner_s_and_its_pruning() -> None:
    own = replace(add_up, space={"BLOCK": (2048,), "num_warps": (1,)})
    spec = UserSpec(own, frozenset({"n"}))
    assert [own.decode(config) for config in spec.search_space] == [{"BLOCK": 2048, "num_warps": 1}]
    assert spec.allows(spec.search_space[0], TOTAL)


def test_problems_need_the_key_s_sizes() -> None:
    add_up.check_sizes(["n", "dtype"])
    with pytest.raises(InputError, match=r"add_up_kernel: problems need the size 'n', because it is in the key"):
        add_up.check_sizes(["rows"])


def test_pruning_that_fails_is_told_in_a_line() -> None:
    tuner = triton.autotune(
        list(add_up_kernel.configs), key=["n"], prune_configs_by={"early_config_prune": lambda *_, **__: []}
    )(add_up_kernel.fn)
    pruned = replace(add_up, function=tuner)
    with pytest.raises(InputError, match=r"prune_configs_by\(.*no config is left"):
        pruned.allows(TOTAL, add_up.listed[0])


def test_heuristics_are_worked_out_of_arguments_and_config() -> None:
    inputs = UserKernel(add_up, HERE).make_inputs(TOTAL, seed=0, device=CPU)
    for n, block, even in ((200, 64, False), (256, 128, True)):
        arguments = {**inputs.arguments, "n": n}
        call = call_of(add_up, TOTAL, arguments, {"BLOCK": block, "num_warps": 2, "num_stages": 3})
        assert call.parameters["EVEN"] is even
        assert call.kernel is add_up_kernel.fn.fn
        assert call.options["num_warps"] == 2


def test_heuristics_above_an_autotuner_see_no_config_and_may_set_launch_options() -> None:
    seen: list[set[str]] = []

    def warps(arguments: dict[str, Any]) -> int:
        seen.append(set(arguments))
        return 8

    jit = add_up_kernel.fn.fn
    tuner = triton.autotune([triton.Config({"BLOCK": 64, "EVEN": False})], key=["n"])(jit)
    above = replace(
        add_up, function=triton.heuristics({"num_warps": warps})(tuner), space=[{"BLOCK": 64, "EVEN": False}]
    )
    inputs = UserKernel(above, HERE).make_inputs(TOTAL, seed=0, device=CPU)
    call = call_of(above, TOTAL, inputs.arguments, above.encode({"BLOCK": 64, "EVEN": False}, "here"))
    assert call.options["num_warps"] == 8
    assert seen[0] == {"x", "total", "n"}


def test_heuristics_that_fail_are_told_in_a_line() -> None:
    broken = replace(add_up, function=triton.heuristics({"EVEN": lambda a: a["N"] == 0})(add_up_kernel.fn.fn),
                     space={"BLOCK": (64,)})  # fmt: skip
    with pytest.raises(InputError, match=r"add_up_kernel: @triton.heuristics: KeyError: 'N'"):
        UserKernel(broken, HERE).call(UserKernel(broken, HERE).stand_ins(TOTAL), {"BLOCK": 64})


def test_counters_are_cleared_before_each_launch_and_with_it() -> None:
    inputs = UserKernel(add_up, HERE).make_inputs(TOTAL, seed=0, device=CPU)
    call = call_of(add_up, TOTAL, inputs.arguments, {"BLOCK": 64, "num_warps": 2, "num_stages": 3})
    total = inputs.arguments["total"].fill_(7)
    assert call.before is not None
    call.before()
    assert float(total) == 0


@pytest.mark.parametrize("kernel", [by_block_shapes, by_hook], ids=lambda kernel: kernel.name)
def test_the_block_shapes_of_descriptors_follow_the_config_and_are_its_own(kernel: Kernel) -> None:
    inputs = UserKernel(kernel, HERE).make_inputs(PRODUCT, seed=0, device=CPU)
    for m, n in ((16, 16), (64, 32)):
        params = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": 32}
        more = {"num_warps": 4, "num_stages": 2} if kernel is by_hook else {}
        call = call_of(kernel, PRODUCT, inputs.arguments, kernel.encode({**params, **more}, "here"))
        shapes = [list(call.parameters[name].block_shape) for name in "abc"]
        assert shapes == [[m, 32], [32, n], [m, n]]
        if call.before is not None:
            call.before()
        assert [list(inputs.arguments[name].block_shape) for name in "abc"] == [[1, 16]] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_shapes": {"K": (1,)}}, "block_shapes: 'K' is not a tensor descriptor"),
        ({"block_shapes": {"a": ("BLOCK_X", 16)}}, "block_shapes: 'a': 'BLOCK_X'"),
        ({"block_shapes": {"a": (3, 16)}}, "block_shapes: 'a': "),
    ],
)
def test_block_shapes_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    changed = UserKernel(replace(by_block_shapes, **change), HERE)
    with pytest.raises(InputError, match=message):
        changed.call(changed.stand_ins(PRODUCT), {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16})


def test_the_memory_below_a_descriptor_is_an_argument_s() -> None:
    described = decorated_kernels.described({}, CPU)
    assert tensor_of(described["a"]) is described["a"].base
    assert Memory.of(described, ["c"]).nbytes == 2 * 64 * 64 * 2
    copies = copied({**described, "same": described["a"].base})
    assert isinstance(copies["a"], TensorDescriptor)
    assert copies["a"].base.data_ptr() == copies["same"].data_ptr() != described["a"].base.data_ptr()


def test_values_may_be_none_dtypes_and_tuples() -> None:
    assert affine.values["TYPE"].numbers == {tl.float32: 1, tl.float16: 2}
    assert affine.values["maxnreg"].values == (None, 32)
    params = affine.decode(affine.encode({**affine.default, "SHAPE": (4, None)}, "here"))  # type: ignore[dict-item]
    assert params == {**affine.default, "SHAPE": (4, None)}  # type: ignore[dict-item]
    spec = UserSpec(affine, frozenset({"n", "bias"}))
    table = spec.features(list(spec.search_space), affine_problem(), H100)
    assert {"maxnreg None", "maxnreg 32", "TYPE fp16", "SHAPE (2, 3)"} < set(spec.feature_names)
    assert table.shape == (2 * 2 * 2 * 2 * 2 * 2, len(spec.feature_names))
    with pytest.raises(
        InputError, match="expected each value to be a number, a truth value, a text, None, a dtype or a tuple"
    ):
        replace(affine, space={"BLOCK": (object(),)}, default=None)


@pytest.mark.slow
@pytest.mark.usefixtures("_sm_90")
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, {"maxnreg": None, "enable_fp_fusion": True, "launch_pdl": False}),
        ({"maxnreg": 32}, {"maxnreg": 32}),
        ({"enable_fp_fusion": False}, {"enable_fp_fusion": False}),
        ({"launch_pdl": True}, {"launch_pdl": True}),
    ],
)
def test_any_launch_option_reaches_the_compiler(change: dict[str, Any], found: dict[str, Any]) -> None:
    operation = UserKernel(affine, HERE)
    config = affine.encode({**affine.default, **change}, "here")  # type: ignore[dict-item]
    binary = operation.warmup(affine_problem(), config)
    assert {name: getattr(binary.metadata, name) for name in found} == found


@pytest.mark.slow
@pytest.mark.usefixtures("_sm_90")
def test_each_option_and_value_makes_another_binary_and_key() -> None:
    operation, seen = UserKernel(affine, HERE), {}
    changes: list[dict[str, Any]] = [{}, {"maxnreg": 32}, {"enable_fp_fusion": False}, {"launch_pdl": True},
                                     {"TYPE": tl.float16}, {"SHAPE": (4, None)}]  # fmt: skip
    for bias in (False, True):
        for change in changes:
            config = affine.encode({**affine.default, **change}, "here")  # type: ignore[dict-item]
            key = operation.compile_key(affine_problem(bias), config, H100)
            seen[key] = operation.warmup(affine_problem(bias), config).hash
    assert len(seen) == len(set(seen.values())) == 12


@pytest.mark.slow
@pytest.mark.usefixtures("_sm_90")
@pytest.mark.parametrize("name", ["add_up_kernel", "by_block_shapes", "by_hook"])
def test_decorated_and_described_kernels_compile_without_a_gpu(name: str) -> None:
    operation = operations_in(decorated_kernels)(name)
    assert isinstance(operation, UserKernel)
    asked = TOTAL if name == "add_up_kernel" else PRODUCT
    configs = [operation.kernel.encode(params, "here") for params in operation.kernel.listed] or [
        {"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 32}
    ]
    for config in configs[:2]:
        (binary,) = operation.compile(asked, config)
        assert binary.asm["cubin"][:4] == b"\x7fELF"
        assert operation.compile_key(asked, config, H100)


@pytest.mark.slow
@pytest.mark.usefixtures("_sm_90")
def test_an_option_of_other_gpus_is_refused_in_a_line() -> None:
    foreign = UserKernel(replace(affine, space={**affine.space, "waves_per_eu": (1, 2)}, default=None), HERE)  # type: ignore[dict-item]
    config = foreign.kernel.encode(foreign.kernel.default_params(affine_problem()), "here")
    with pytest.raises(InputError, match="affine: space: Triton accepts no option 'waves_per_eu' for cuda:90"):
        foreign.compile_key(affine_problem(), config, H100)


def test_triton_tells_its_launch_options() -> None:
    assert {"num_warps", "maxnreg", "launch_pdl", "enable_fp_fusion", "waves_per_eu"} <= launch_options(None)
    assert "waves_per_eu" in launch_options("hip")
    assert "waves_per_eu" not in launch_options("cuda")


def test_results_depend_on_heuristics_hooks_and_block_shapes() -> None:
    def source(kernel: Kernel, **change: Any) -> str:
        return UserKernel(replace(kernel, **change), HERE).source

    assert source(add_up) == source(add_up)
    jit = add_up_kernel.fn.fn
    others = [triton.heuristics({"EVEN": lambda arguments: False})(jit), jit]
    sources = {source(add_up, function=one, space={"BLOCK": (64,)}) for one in others}
    assert len(sources) == 2
    assert source(by_block_shapes) != source(by_block_shapes, block_shapes={"a": ("BLOCK_M", "BLOCK_K")})
