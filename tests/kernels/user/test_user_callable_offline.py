"""What operations launch, told and compiled for sm_90 on a machine without a GPU: what a launch looks up."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
import tutorial_softmax
from helpers import H100, ROOT
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from bo_tune import InputError, Operation
from bo_tune.core.outcome import Resources
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.user.operation import UserCallable
from bo_tune.kernels.user.spec import LAUNCH_FEATURES, UserSpec
from bo_tune.measure.backends.nvidia.children import CompilerSide
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.compile.worker import Compiler
from bo_tune.measure.device import Compiled
from bo_tune.processes.importing import import_source

pytestmark = pytest.mark.slow

HERE, CPU = Path(__file__), torch.device("cpu")

SIZES: dict[str, dict[str, Any]] = {
    "layer_norm_backward": {"rows": 12, "cols": 1000},
    "split_k": {"M": 16, "N": 200, "K": 512},
    "persistent softmax": {"rows": 9, "cols": 100},
}


def example(name: str) -> Operation:
    module = import_source(str(ROOT / "examples" / f"{name}.py"))
    return next(value for value in vars(module).values() if isinstance(value, Operation))


OPERATIONS = {op.name: op for op in (example("layer_norm"), example("split_k"), tutorial_softmax.persistent)}


@pytest.fixture(autouse=True)
def _sm_90(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile for sm_90 into a cache of the test session, and leave Triton's driver as it was."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where nothing is said
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setattr(triton.runtime.driver, "_active", triton.runtime.driver._active)
    activate(GPUTarget("cuda", 90, 32), H100)


def problem(name: str) -> SizedProblem:
    return SizedProblem(name, tuple(SIZES[name].items()))


def some_configs(operation: Operation) -> list[dict[str, int]]:
    """The default config, and one that differs in everything."""
    default = operation.encode(operation.default_params(problem(operation.name)), "default")
    other = {name: next(v for v in values.values if v != operation.decode(default)[name])
             for name, values in operation.values.items()}  # fmt: skip
    return [default, operation.encode(other, "here")]


CASES = [(name, config) for name, operation in OPERATIONS.items() for config in some_configs(operation)]


def keys_asked_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> set[object]:
    """Return the keys under which Triton would look for binaries; nothing is compiled or launched."""
    keys: set[object] = set()

    def note(*, fn: Any, key: object, compile: Mapping[str, Any], **_: object) -> bool:
        fn.jit_function.device_caches.clear()  # so that Triton asks again
        keys.add((fn.name, key, str(compile["signature"]), str(compile["constants"]), str(compile["configs"])))
        return True  # so that Triton does not go on to compile

    with monkeypatch.context() as patched:
        patched.setattr(triton.knobs.runtime, "jit_cache_hook", note)
        run()
    return keys


@pytest.mark.parametrize(("name", "config"), CASES, ids=str)
def test_compiling_ahead_asks_for_what_a_launch_asks_for(
    name: str, config: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asked = UserCallable(OPERATIONS[name], HERE), problem(name)
    inputs = found.make_inputs(asked, seed=0, device=CPU)  # of the very alignment and types of a GPU's
    ahead = keys_asked_for(lambda: found.compile(asked, config), monkeypatch)
    assert ahead == keys_asked_for(lambda: found.launch(inputs, config), monkeypatch)
    assert len(ahead) == (2 if name == "layer_norm_backward" or config.get("SPLIT_K", 1) > 1 else 1)


@pytest.mark.parametrize("name", OPERATIONS)
def test_equal_compile_keys_mean_the_same_binaries(name: str) -> None:
    found, asked = UserCallable(OPERATIONS[name], HERE), problem(name)
    seen = {}
    for config in some_configs(OPERATIONS[name]):
        seen[found.compile_key(asked, config, H100)] = tuple(binary.hash for binary in found.compile(asked, config))
        assert found.note(asked, H100) is None
    assert len(set(seen.values())) == len(seen) == 2


def test_a_config_that_changes_the_grid_alone_shares_its_binaries() -> None:
    found, asked = UserCallable(tutorial_softmax.persistent, HERE), problem("persistent softmax")
    configs = [{"PROGRAMS": n, "num_stages": 2, "num_warps": 4} for n in (1, 4)]
    assert len({found.compile_key(asked, config, H100) for config in configs}) == 1


def test_what_a_config_uses_is_the_most_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.compilation, "listener", None)
    compiler = Compiler(str(ROOT / "examples" / "split_k.py"), H100, CompilerSide())
    asked, (whole, split) = problem("split_k"), some_configs(OPERATIONS["split_k"])
    one, two = compiler.compile(asked, whole), compiler.compile(asked, split)
    assert isinstance(one, Compiled)
    assert isinstance(two, Compiled)
    assert None not in (one.entry, two.entry)
    assert (len(one.more), len(two.more)) == (0, 1)
    shared = two.resources.shared_memory_bytes
    assert shared is not None
    assert shared > 0, "of the product: the sum uses none"
    assert (two.resources.registers_per_thread or 0) > 0


def test_the_most_of_no_binary_is_not_known() -> None:
    assert Resources.most([]) == Resources()
    assert Resources.most([Resources(1, None, 3), Resources(2, None, 0)]) == Resources(2, None, 3)


@triton.jit
def scaled_kernel(x, y, factor, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(y + place, tl.load(x + place) * factor)


scaled_under_heuristics = triton.heuristics({"BLOCK": lambda arguments: 64})(scaled_kernel)
tuned_by_itself = triton.autotune([triton.Config({"BLOCK": 32}), triton.Config({"BLOCK": 64})], key=[])(scaled_kernel)
tuned_to_one = triton.autotune([triton.Config({"BLOCK": 64}, num_warps=2)], key=[])(scaled_kernel)


def run(arguments: Mapping[str, Any], config: Mapping[str, Any], gpu: object) -> None:
    kernel, x, y = config["KERNEL"], arguments["x"], arguments["y"]
    if kernel == "value":
        scaled_kernel[(1,)](x, y, 2.0, BLOCK=64)
        scaled_kernel[(1,)](x, y, x[0].item(), BLOCK=32)
    elif kernel == "warmup":
        scaled_kernel.warmup(x, y, 2.0, BLOCK=64, grid=(1,))
    elif kernel == "grid":
        scaled_kernel[lambda meta: (64 // meta["BLOCK"],)](x, y, 2.0, BLOCK=64)
    elif kernel == "misspelt":
        scaled_kernel[(1,)](arguments["z"], y, 2.0, BLOCK=64)
    elif kernel == "lacking":
        scaled_kernel[(1,)](x, y)
    else:
        {"heuristics": scaled_under_heuristics, "tuned": tuned_by_itself, "one": tuned_to_one}[kernel][(1,)](x, y, 2.0)


odd = Operation(
    "odd",
    space={"KERNEL": ("value", "warmup", "grid", "misspelt", "lacking", "heuristics", "tuned", "one")},
    sizes="n",
    make=lambda sizes, device: {"x": torch.ones(64, device=device), "y": torch.empty(64, device=device)},
    run=run,
    outputs="y",
    default={"KERNEL": "value"},
)
ODD = SizedProblem("odd", (("n", 1),))


def told(kernel: str) -> tuple[UserCallable, dict[str, int]]:
    return UserCallable(odd, HERE), odd.encode({"KERNEL": kernel}, "here")


@pytest.mark.parametrize(("kernel", "options"), [("grid", {}), ("heuristics", {}), ("one", {"num_warps": 2})])
def test_triton_s_ways_to_launch_are_told(kernel: str, options: dict[str, int]) -> None:
    found, config = told(kernel)
    (call,) = found.told(ODD, config, H100).calls
    assert (call.parameters["BLOCK"], call.kernel) == (64, scaled_kernel)
    assert options.items() <= call.options.items()
    assert found.compile(ODD, config)[0].metadata.num_warps == options.get("num_warps", 4)


@pytest.mark.parametrize(("kernel", "known", "why"), [("value", 1, "meta"), ("warmup", 0, "needs the GPU")])
def test_what_needs_a_launch_is_told_up_to_there_and_has_a_key_of_its_own(kernel: str, known: int, why: str) -> None:
    found, config = told(kernel)
    launches = found.told(ODD, config, H100)
    assert why in launches.untold
    assert len(launches.calls) == len(found.compile(ODD, config)) == known
    grid = found.compile_key(ODD, told("grid")[1], H100)
    assert found.compile_key(ODD, config, H100) != grid


def test_what_cannot_be_compiled_ahead_is_noted_in_a_line() -> None:
    note = told("value")[0].note(ODD, H100)
    assert note is not None
    assert note.startswith("some launches of run cannot be compiled ahead, so they compile while the GPU waits: ")
    assert "\n" not in note


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("misspelt", "odd: run: KeyError: 'z'"),
        ("lacking", "odd: run: TypeError: scaled_kernel got 2 arguments"),
        ("tuned", "odd: run: scaled_kernel is under an autotuner; launch it without one, with the given config"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_launched(kernel: str, message: str) -> None:
    launch = JITFunction.run
    found, config = told(kernel)
    with pytest.raises(InputError, match=message):
        found.compile_key(ODD, config, H100)
    assert JITFunction.run is launch


def described(operation: Operation, sizes: Mapping[str, Any], **params: Any) -> dict[str, float]:
    """Return what is known of the launches of a config, by name."""
    spec, config = UserSpec(operation, frozenset(sizes)), operation.encode(params, "here")
    row = spec.features([config], SizedProblem(operation.name, tuple(sizes.items())), H100)[0]
    return {name: value for name, value in zip(spec.feature_names, row, strict=True) if name in LAUNCH_FEATURES}


@pytest.mark.parametrize(("split", "launches", "most"), [(1, 1, 256), (4, 2, 1024)])
def test_the_search_knows_the_launches_of_an_operation(split: int, launches: int, most: int) -> None:
    tiles = {"BLOCK_M": 16, "BLOCK_N": 128, "BLOCK_K": 64, "SPLIT_K": split, "num_warps": 4, "num_stages": 2}
    known = described(OPERATIONS["split_k"], {"M": 16, "N": 32768, "K": 4096}, **tiles)
    waves = most / H100.sm_count
    assert known["launches"] == launches
    assert known["log2 most programs"] == pytest.approx(math.log2(most))
    assert known["last wave fill"] == pytest.approx(waves / math.ceil(waves))


@pytest.mark.parametrize("kernel", ["grid", "one", "value", "warmup", "misspelt", "tuned"])
def test_launches_that_cannot_be_told_are_none_to_the_search(kernel: str) -> None:
    known = described(odd, {"n": 1}, KERNEL=kernel)
    assert known["launches"] == (1.0 if kernel in ("grid", "one", "value") else 0.0)
    assert known["log2 most programs"] == 0.0


def test_a_grid_that_asks_the_gpu_hides_no_launch() -> None:
    def asking(arguments: Mapping[str, Any], config: Mapping[str, Any], gpu: object) -> None:
        scaled_kernel[lambda meta: (1 // 0,)](arguments["x"], arguments["y"], 2.0, BLOCK=64)

    launches = UserCallable(replace(odd, run=asking), HERE).told(ODD, told("grid")[1], H100)
    assert (len(launches.calls), launches.programs, launches.untold) == (1, (0,), "")


def test_launches_of_a_huge_space_are_not_found_out() -> None:
    huge = replace(odd, space={"KERNEL": ("grid", "one"), "OF": tuple(range(1, 5001))}, default=None)
    assert not set(LAUNCH_FEATURES) & set(UserSpec(huge, frozenset({"n"})).feature_names)


def test_clearing_is_no_launch_of_triton_s() -> None:
    found = UserCallable(replace(odd, zero="x"), HERE)
    assert len(found.told(ODD, told("grid")[1], H100).calls) == 1
