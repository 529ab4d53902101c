"""Users' kernels compiled for sm_90 on a machine without a GPU: the binary is the one that a launch looks up."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
import tutorial_softmax
from helpers import H100, ROOT
from triton.backends.compiler import GPUTarget
from user_kernels import add_scaled

from bo_tune import InputError, Kernel
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.call import KernelCall, StandIn
from bo_tune.kernels.user.call import call_of
from bo_tune.kernels.user.operation import UserInputs, UserKernel, operations_in
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.source import operations_of
from bo_tune.processes.importing import import_source

pytestmark = pytest.mark.slow

HERE = Path(__file__)
OPERATION = UserKernel(add_scaled, HERE.with_name("user_kernels.py"))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _sm_90(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where nothing is said
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32))


def problem(n: int = 1024, skip: int = 0, dtype: str = "float32") -> SizedProblem:
    return SizedProblem("add_scaled", (("n", n), ("skip", skip), ("dtype", dtype)))


def config(**changes: object) -> dict[str, int]:
    usual = {"BLOCK": 64, "CLAMP": False, "MODE": "single", "num_warps": 4, "OFF": 0}
    return add_scaled.encode({**usual, **changes}, "here")


def asked_for(call: KernelCall, monkeypatch: pytest.MonkeyPatch, *, launched: bool) -> object:
    """Return the key under which Triton would look for the binary of a call; nothing is compiled or launched."""
    keys = []

    def note(*, key: object, compile: dict[str, object], **_: object) -> bool:
        keys.append((key, compile["signature"], str(compile["constants"]), str(compile["configs"])))
        return True  # so that Triton does not go on to compile

    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", note)
    monkeypatch.setattr(call.kernel, "device_caches", type(call.kernel.device_caches)(call.kernel.create_binder))
    if launched:
        call.kernel[call.grid](*call.arguments, **call.options)
    else:
        call.warmup()
    (key,) = keys
    return key


VARIANTS = list(product([problem(), problem(n=1000), problem(n=1, skip=1), problem(skip=16), problem(dtype="float16")],
                        [config(), config(CLAMP=True, OFF=-1), config(MODE="double", num_warps=1)]))  # fmt: skip


@pytest.mark.parametrize(("asked", "chosen"), VARIANTS, ids=str)
def test_compiling_ahead_asks_for_what_a_launch_asks_for(
    asked: SizedProblem, chosen: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = OPERATION.make_inputs(asked, seed=0, device=CPU)  # of the very alignment and types of a GPU's
    on_a_gpu = call_of(add_scaled, asked, inputs.arguments, chosen)
    ahead = OPERATION.call(OPERATION.stand_ins(asked), chosen)
    assert asked_for(ahead, monkeypatch, launched=False) == asked_for(on_a_gpu, monkeypatch, launched=True)
    assert ahead.specialisation() == on_a_gpu.specialisation()


def test_compile_keys_are_equal_exactly_for_the_same_binary() -> None:
    seen: dict[object, str] = {}
    hashes = set()
    for asked, chosen in [*VARIANTS, (problem(n=2048), config()), (problem(n=4), config())]:
        digest = OPERATION.warmup(asked, chosen).hash
        hashes.add(digest)
        assert seen.setdefault(OPERATION.compile_key(asked, chosen, H100), digest) == digest
    assert len(seen) == len(hashes)


def test_a_view_that_begins_off_alignment_is_compiled_as_such() -> None:
    assert StandIn(torch.empty(8, device="meta")[1:]).data_ptr() == 4
    assert StandIn(torch.empty(8, device="meta")[4:]).data_ptr() == 0


@pytest.mark.parametrize("name", ["softmax", "matmul"])
def test_the_examples_compile_as_scripts(name: str) -> None:
    path = ROOT / "examples" / f"{name}.py"
    kernel = next(v for v in vars(import_source(str(path))).values() if isinstance(v, Kernel))
    sizes = {"rows": 4096, "cols": 1000} if name == "softmax" else {"M": 512, "N": 512, "K": 64, "dtype": "float16"}
    asked = SizedProblem(kernel.name, tuple(sizes.items()))
    operation = operations_of(str(path))(kernel.name)
    compiled = operation.warmup(asked, kernel.encode(kernel.default, "default"))
    assert compiled.asm["cubin"][:4] == b"\x7fELF"
    assert operation.source.startswith(f"{name}.py ")


def test_inputs_that_hold_no_values_are_required_in_one_line() -> None:
    def reads(sizes: object, device: object) -> dict[str, object]:
        return {**add_scaled.inputs(sizes, device), "factor": torch.ones(1, device=device).item()}  # type: ignore[arg-type]

    reading = UserKernel(replace(add_scaled, inputs=reads), HERE)
    with pytest.raises(InputError, match=r"add_scaled: inputs: cannot be called with the device 'meta'.*item"):
        reading.warmup(problem(), config())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": 1}, "inputs: the kernel has no argument 'z'; it takes x, y, n"),
        ({"BLOCK": 1}, "inputs: 'BLOCK' is already in the search space"),
        ({"n": None}, "inputs: there is no value for n, neither here nor in the search space"),
        ({"y": 3.0}, "output: 'y' is not a tensor"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    def changed(sizes: object, device: object) -> dict[str, object]:
        given = {**add_scaled.inputs(sizes, device), **change}  # type: ignore[arg-type]
        return {name: value for name, value in given.items() if value is not None}

    with pytest.raises(InputError, match=message):
        UserKernel(replace(add_scaled, inputs=changed), HERE).compile_key(problem(), config(), H100)


def test_tensors_must_be_on_the_device_that_was_asked_for() -> None:
    elsewhere = replace(add_scaled, inputs=lambda sizes, device: add_scaled.inputs(sizes, CPU))
    with pytest.raises(InputError, match="inputs: 'x' is on cpu, but meta was requested"):
        UserKernel(elsewhere, HERE).compile_key(problem(), config(), H100)


def output_of(inputs: UserInputs) -> torch.Tensor:
    output: torch.Tensor = inputs.arguments["y"]
    return output


def test_an_output_that_is_read_is_brought_back_and_another_is_filled_with_nan() -> None:
    inputs = OPERATION.make_inputs(problem(), seed=0, device=CPU)
    output_of(inputs).fill_(7)
    OPERATION.reset(inputs)
    assert bool((output_of(inputs) == 1).all())
    output_of(inputs).fill_(7)
    OPERATION.poison(inputs)
    assert bool((output_of(inputs) == 1).all())
    plain = UserKernel(replace(add_scaled, in_place=False), HERE)
    inputs = plain.make_inputs(problem(), seed=0, device=CPU)
    plain.poison(inputs)
    assert bool(output_of(inputs).isnan().all())


@pytest.mark.parametrize(("dtype", "filled"), [(torch.int8, 127), (torch.bool, True), (torch.complex64, None)])
def test_outputs_of_other_types_are_filled_with_what_shows(dtype: torch.dtype, filled: object) -> None:
    made = replace(add_scaled, in_place=False, inputs=lambda sizes, device: {
        **add_scaled.inputs(sizes, device), "y": torch.zeros(4, dtype=dtype, device=device)})  # fmt: skip
    operation = UserKernel(made, HERE)
    inputs = operation.make_inputs(problem(), seed=0, device=CPU)
    operation.poison(inputs)
    output = output_of(inputs)
    assert bool(output.isnan().all() if filled is None else (output == filled).all())


def test_inputs_depend_on_the_seed_alone_and_their_memory_is_counted() -> None:
    first, second, other = (OPERATION.make_inputs(problem(), seed=seed, device=CPU) for seed in (1, 1, 2))
    assert torch.equal(first.arguments["x"], second.arguments["x"])
    assert not torch.equal(first.arguments["x"], other.arguments["x"])
    assert OPERATION.inputs_bytes(first) == 2 * 2 * 4 * 1024  # both arguments, and both as they were at first
    plain = UserKernel(replace(add_scaled, in_place=False), HERE)
    assert plain.inputs_bytes(plain.make_inputs(problem(), seed=0, device=CPU)) == (2 + 1) * 4 * 1024


def test_operations_are_found_by_the_kernels_names() -> None:
    find = operations_in(import_source("user_kernels"))
    assert find("add_scaled").source.startswith("user_kernels.py ")
    with pytest.raises(InputError, match="no kernel 'listed'; expected one of add_scaled"):
        find("listed")


TUTORIAL_SIZES = (("rows", 8), ("cols", 1000))


def test_a_parameter_called_as_a_launch_option_is_given_as_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``triton.Config`` does: what it is given by name goes to the kernel and to the compiler."""
    asked = SizedProblem("softmax_kernel", TUTORIAL_SIZES)
    kernel = tutorial_softmax.softmax
    operation = UserKernel(kernel, HERE)
    every = [{"num_stages": stages, "num_warps": warps} for stages in (2, 4) for warps in (4, 8)]
    compiled = {}
    for params in every:
        binary = operation.warmup(asked, params)
        assert (binary.metadata.num_stages, binary.metadata.num_warps) == (params["num_stages"], params["num_warps"])
        compiled[operation.compile_key(asked, params, H100)] = binary.hash
    for params in every:
        ahead = operation.call(operation.stand_ins(asked), params)
        on_a_gpu = call_of(kernel, asked, operation.make_inputs(asked, seed=0, device=CPU).arguments, params)
        assert asked_for(ahead, monkeypatch, launched=False) == asked_for(on_a_gpu, monkeypatch, launched=True)
    assert len(set(compiled.values())) == len(compiled) == 4


@triton.jit
def warps_by_default_kernel(x, num_warps: tl.constexpr = 8, BLOCK: tl.constexpr = 16, num_stages: tl.constexpr = 2):
    tl.store(x + tl.arange(0, BLOCK), num_warps + num_stages)


@pytest.mark.parametrize(("more", "warps", "stages"), [({}, 4, 5), ({"num_warps": 2}, 2, 5)])
def test_a_parameter_called_as_a_launch_option_that_has_its_default_says_nothing_of_the_launch(
    more: dict[str, int], warps: int, stages: int
) -> None:
    made = Kernel(
        warps_by_default_kernel,
        space={"BLOCK": (16, 32), "num_stages": (5,)},
        inputs=lambda sizes, device: {"x": torch.empty(64, device=device), **more},
        grid=lambda sizes, config: 1,
        output="x",
        reference=lambda arguments: arguments["x"],
    )
    binary = UserKernel(made, HERE).warmup(SizedProblem(made.name, (("n", 1),)), {"BLOCK": 32, "num_stages": 5})
    assert (binary.metadata.num_warps, binary.metadata.num_stages) == (warps, stages)


def test_two_kernels_over_one_function_are_found_by_their_globals() -> None:
    find = operations_in(tutorial_softmax)
    for name in ("softmax", "loose"):
        operation = find(name)
        assert operation.kernel.name == name
        assert operation.kernel.space is getattr(tutorial_softmax, name).space
    assert find("loose").source != find("softmax").source
    with pytest.raises(InputError, match="no kernel 'softmax_kernel'; expected one of softmax_kernel, "):
        find("softmax_kernel")


@triton.jit
def first_of_two_kernel(pair, y, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(y + place, tl.load(pair[0] + place) + pair[1])


def test_arguments_may_be_tuples(monkeypatch: pytest.MonkeyPatch) -> None:
    def inputs(sizes: dict[str, int], device: torch.device) -> dict[str, object]:
        x = torch.randn(sizes["n"] + sizes["skip"], device=device)[sizes["skip"] :]
        return {"pair": (x, sizes["n"]), "y": torch.empty_like(x)}

    made = Kernel(
        first_of_two_kernel,
        space={"BLOCK": (64,)},
        inputs=inputs,
        grid=lambda sizes, config: 1,
        output="y",
        reference=lambda arguments: arguments["pair"][0],
    )
    operation, keys = UserKernel(made, HERE), set()
    for n, skip in ((64, 0), (64, 1), (65, 0)):
        asked = SizedProblem(made.name, (("n", n), ("skip", skip)))
        on_a_gpu = call_of(made, asked, operation.make_inputs(asked, seed=0, device=CPU).arguments, {"BLOCK": 64})
        ahead = operation.call(operation.stand_ins(asked), {"BLOCK": 64})
        assert asked_for(ahead, monkeypatch, launched=False) == asked_for(on_a_gpu, monkeypatch, launched=True)
        keys.add(operation.compile_key(asked, {"BLOCK": 64}, H100))
    assert len(keys) == 3
