"""What a user's reference says is right: for copies of the arguments, for several outputs, for a part of one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from user_kernels import add_scaled, add_scaled_kernel

from bo_tune.core.problem import SizedProblem
from bo_tune.errors import InputError
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user.check.tolerance import Tolerance
from bo_tune.kernels.user.kernel import Kernel
from bo_tune.kernels.user.operation import UserInputs, UserKernel
from bo_tune.measure.backends.nvidia.children import GpuSide
from bo_tune.measure.gpu.process import Prepared

CPU = torch.device("cpu")
PROBLEM = SizedProblem("mine", (("n", 64),))

Arguments = dict[str, Any]
Program = Callable[[Arguments], None]


def kernel(**changes: Any) -> Kernel:
    """A kernel of two arguments, x and y, that takes them as the reference does."""
    usual: dict[str, Any] = {
        "name": "mine",
        "space": {"BLOCK": (64, 128)},
        "inputs": lambda sizes, device: {
            "x": torch.arange(1.0, 65, device=device),
            "y": torch.ones(64, device=device),
            "n": 64,
            "factor": 1.0,
            "offset": 0,
            "CLAMP": False,
            "MODE": "single",
        },
        "grid": lambda sizes, config: 1,
        "output": "y",
        "reference": lambda arguments: 2 * arguments["x"],
    }
    return Kernel(add_scaled_kernel, **{**usual, **changes})


class Running(UserKernel):
    """An operation that runs Python in place of a kernel."""

    def __init__(self, kernel: Kernel, program: Program) -> None:
        super().__init__(kernel, Path(__file__))
        self.program = program

    def launch(self, inputs: UserInputs, config: Mapping[str, int]) -> None:
        self.program(dict(inputs.arguments))


def prepared(kernel: Kernel, program: Program, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    operation = Running(kernel, program)
    inputs = operation.make_inputs(PROBLEM, seed=0, device=CPU)
    return Prepared(GpuSide.__new__(GpuSide), operation, inputs, operation.right(inputs))


def checked(kernel: Kernel, program: Program, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    """Check and time a config as the GPU process does, three times; it is always as right as at first."""
    ready, verdicts = prepared(kernel, program, monkeypatch), []
    for _ in range(3):
        verdicts.append(ready.verdict_on({"BLOCK": 64}))
        for _ in range(2):  # timed
            ready.restore()
            ready.operation.launch(ready.inputs, {"BLOCK": 64})
    assert verdicts == verdicts[:1] * 3
    return verdicts[0]


RIGHT = Verdict(0.0)


def test_a_second_tensor_that_is_written_is_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(arguments: Arguments) -> None:
        arguments["y"].copy_(2 * arguments["x"])
        arguments["x"].add_(1)

    assert checked(kernel(), program, monkeypatch) == RIGHT


def test_what_only_another_config_writes_is_brought_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []

    def program(arguments: Arguments) -> None:
        arguments["y"].copy_(2 * arguments["x"])
        if writes:
            arguments["x"].fill_(7)

    ready = prepared(kernel(), program, monkeypatch)
    assert ready.verdict_on({"BLOCK": 64}) == RIGHT
    assert not ready.inputs.memory.changed
    writes.append(1)
    assert ready.verdict_on({"BLOCK": 128}) == RIGHT
    assert len(ready.inputs.memory.changed) == 1
    writes.clear()
    assert ready.verdict_on({"BLOCK": 64}) == RIGHT


def test_an_optimiser_s_state_is_the_same_for_every_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(sizes: object, device: torch.device) -> Arguments:
        packed = torch.ones(200, device=device)  # parameters, moments and a counter in one piece of memory
        made = kernel().inputs(sizes, device)  # type: ignore[arg-type]
        return {**made, "x": (packed[:64], packed[64:128], packed[130:131]), "y": packed[136:].view(8, 8)}

    def step(arguments: Arguments) -> None:
        first, second, count = arguments["x"]
        count += 1
        first.mul_(0.9).add_(count)
        second.mul_(0.5).add_(first)
        arguments["y"] -= second.view(8, 8) / count

    seen = []

    def reference(arguments: Arguments) -> torch.Tensor:
        step(arguments)
        return arguments["y"]

    def program(arguments: Arguments) -> None:
        seen.append(float(arguments["x"][2]))
        step(arguments)

    assert checked(kernel(inputs=state, reference=reference, in_place=True), program, monkeypatch) == RIGHT
    assert set(seen) == {1.0}


def test_a_reference_that_writes_to_its_arguments_is_given_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def reference(arguments: Arguments) -> torch.Tensor:
        arguments["x"] *= 2
        arguments["y"].zero_()
        x: torch.Tensor = arguments.pop("x")
        return x

    def program(arguments: Arguments) -> None:
        arguments["y"].copy_(2 * arguments["x"])

    assert checked(kernel(reference=reference), program, monkeypatch) == RIGHT


@pytest.mark.parametrize("written", [True, False], ids=["the config fills it", "the config leaves it"])
@pytest.mark.parametrize("returns", [True, False], ids=["returned", "written in place"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.bool, torch.complex64])
def test_padding_that_the_reference_leaves_may_be_anything(
    written: bool, returns: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def padded(sizes: object, device: torch.device) -> Arguments:
        made = kernel().inputs(sizes, device)  # type: ignore[arg-type]
        return {**made, "y": torch.empty(100, dtype=dtype, device=device)}

    def reference(arguments: Arguments) -> torch.Tensor | None:
        arguments["y"][:64] = arguments["x"] > 3 if dtype == torch.bool else arguments["x"]
        return arguments["y"] if returns else None

    def program(arguments: Arguments) -> None:
        reference(arguments)
        if written:
            arguments["y"][64:] = 1

    made = kernel(inputs=padded, reference=reference)
    assert checked(made, program, monkeypatch) == RIGHT

    def wrong(arguments: Arguments) -> None:
        arguments["y"].fill_(0)

    count = 61 if dtype == torch.bool else 64
    assert f"y: {count} of 100 elements are wrong" in checked(made, wrong, monkeypatch).wrong


def test_a_nan_or_largest_number_that_the_reference_writes_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def reference(arguments: Arguments) -> torch.Tensor:
        return torch.where(arguments["x"] > 10, arguments["x"], torch.nan)

    def program(arguments: Arguments) -> None:
        arguments["y"].copy_(reference(arguments))

    made = kernel(reference=reference)
    assert checked(made, program, monkeypatch) == RIGHT
    assert "10 of 64 elements are wrong" in checked(made, lambda a: a["y"].copy_(a["x"]), monkeypatch).wrong
    whole = replace(
        made,
        inputs=lambda sizes, device: {**kernel().inputs(sizes, device), "y": torch.ones(64, dtype=torch.uint8)},
        reference=lambda arguments: torch.full((64,), 255, dtype=torch.uint8),
    )
    assert checked(whole, lambda a: a["y"].fill_(255), monkeypatch) == RIGHT
    assert "1 of 64 elements are wrong" in checked(whole, lambda a: a["y"].fill_(255)[3:4].fill_(0), monkeypatch).wrong


def test_a_place_that_no_launch_writes_shows_where_the_reference_says_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict = checked(kernel(), lambda a: a["y"][1:].copy_(2 * a["x"][1:]), monkeypatch)
    assert verdict.wrong == "y: 1 of 64 elements are wrong; the first at [0] is nan, but should be 2.0"


def test_where_the_reference_says_zero_of_what_is_never_written_it_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    padded = kernel(reference=lambda a: torch.cat([torch.zeros(1), 2 * a["x"][1:]]))
    verdict = checked(padded, lambda a: a["y"][1:].copy_(2 * a["x"][1:]), monkeypatch)
    assert verdict.wrong == (
        "y: 1 of 64 elements are wrong; the first at [0] is nan, but should be 0.0; if the kernel never writes it, "
        "the reference must leave it unchanged"
    )


@pytest.mark.parametrize(
    "returned",
    [
        lambda a: (2 * a["x"], a["x"].argmax().view(1)),
        lambda a: [2 * a["x"], a["x"].argmax().view(1)],
        lambda a: {"offset": a["x"].argmax().view(1), "y": 2 * a["x"]},
        lambda a: (a["y"].copy_(2 * a["x"]), a["offset"].copy_(a["x"].argmax()), None)[-1],
    ],
    ids=["in order", "in a list", "by name", "written in place"],
)
def test_several_outputs_are_judged_each_by_itself(
    returned: Callable[[Arguments], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(sizes: object, device: torch.device) -> Arguments:
        some = kernel().inputs(sizes, device)  # type: ignore[arg-type]
        return {**some, "offset": torch.zeros(1, dtype=torch.int64, device=device)}

    two = kernel(output=("y", "offset"), inputs=made, reference=returned)

    def program(arguments: Arguments, *, off: int = 0, error: float = 0.0) -> None:
        arguments["y"].copy_(2 * arguments["x"] + error)
        arguments["offset"].fill_(63 + off)

    assert checked(two, program, monkeypatch) == RIGHT
    off = checked(two, lambda a: program(a, off=1), monkeypatch)
    assert off.wrong == "offset: 1 of 1 elements are wrong; the first at [0] is 64, but should be 63"
    both = checked(two, lambda a: program(a, off=1, error=1000), monkeypatch)
    assert both.wrong.startswith("y: 64 of 64 elements are wrong")
    assert "; offset: 1 of 1" in both.wrong
    loose = replace(two, tolerance={"offset": Tolerance(absolute=1)})
    assert not checked(loose, lambda a: program(a, off=1), monkeypatch).wrong
    assert checked(loose, lambda a: program(a, error=1), monkeypatch).wrong


def test_one_of_several_outputs_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(arguments: Arguments) -> None:
        arguments["y"].copy_(2 * arguments["x"])
        arguments["x"] += 1

    both = kernel(output=("y", "x"), in_place="x", reference=lambda a: {"y": 2 * a["x"], "x": a["x"] + 1})
    assert checked(both, program, monkeypatch) == RIGHT
    assert checked(both, lambda a: a["y"].copy_(2 * a["x"]), monkeypatch).wrong.startswith("x: 64 of 64")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": lambda a: a["x"][:2]}, r"reference: expected a tensor of shape \(64,\), got \(2,\)"),
        ({"reference": lambda a: 3}, r"reference: expected a tensor of shape \(64,\), got int"),
        ({"reference": lambda a: {"x": a["x"]}}, r"reference: expected a tensor of shape \(64,\), got none"),
        ({"reference": lambda a: (a["x"], a["x"])}, r"reference: expected a tensor of shape \(64,\), got none"),
        ({"reference": lambda a: None}, "the reference writes nothing to 'y'"),
        ({"reference": lambda a: a["x"] * 1j}, "mine: reference: 'y' is float32, but the reference is complex64"),
        (
            {"output": ("x", "y"), "reference": lambda a: a["x"]},
            r"reference: expected a tensor of shape \(64,\) for 'x', got none",
        ),
    ],
)
def test_a_reference_that_gives_something_else_is_refused(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=message):
        prepared(kernel(**change), lambda arguments: None, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": ("y", "z")}, "output: expected one of the kernel's arguments, got 'z'"),
        ({"output": ()}, "output: expected names of arguments, each once"),
        ({"output": ("y", "y")}, "output: expected names of arguments, each once"),
        ({"in_place": "x"}, "in_place: 'x' is not an output; the outputs are y"),
        ({"tolerance": {"x": 0.1}}, "tolerance: 'x' is not an output; the outputs are y"),
        ({"tolerance": -1.0}, "add_scaled: tolerance: relative: expected a number of at least 0, got -1.0"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(add_scaled, **change)
