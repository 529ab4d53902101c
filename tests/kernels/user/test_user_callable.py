"""Operations: what is said of them, what is right for them, and what every launch finds; Python in place of kernels."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import H100, ROOT

from bo_tune import InputError, Operation, Tolerance
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.operation import Verdict
from bo_tune.kernels.user import operation as user_operation
from bo_tune.kernels.user.identity.home import kernel_in
from bo_tune.kernels.user.operation import UserCallable, operations_in
from bo_tune.kernels.user.spec import LAUNCH_FEATURES, TILE_FEATURES, UserSpec
from bo_tune.measure.backends.nvidia.children import GpuSide
from bo_tune.measure.gpu.process import Prepared
from bo_tune.processes.importing import import_source

CPU = torch.device("cpu")
PROBLEM = SizedProblem("both", (("n", 64),))
Arguments = Mapping[str, Any]


def make(sizes: Mapping[str, Any], device: torch.device) -> Arguments:
    n = sizes["n"]
    return {
        "x": torch.arange(1.0, n + 1, device=device),
        "state": torch.ones(n, device=device),
        "y": torch.empty(n, device=device),
        "count": torch.zeros(1, dtype=torch.int64, device=device),
    }


def run(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> torch.Tensor:
    """Write y, step the state, count to its size, and return twice x."""
    arguments["y"].copy_(arguments["x"] * config["FACTOR"])
    arguments["state"].add_(1)
    arguments["count"].add_(arguments["x"].numel())
    doubled = torch.empty_like(arguments["x"])
    return doubled.copy_(2 * arguments["x"])


both = Operation(
    "both",
    space={"FACTOR": (1, 2, 3), "SIDE": ("left", "right")},
    sizes="n",
    make=make,
    run=run,
    outputs=("y", "state", "count", "doubled"),
    restore="state",
    zero="count",
    default={"FACTOR": 2, "SIDE": "left"},
)


@pytest.fixture(autouse=True)
def _without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(user_operation, "target_gpu", lambda: H100)


def checked(operation: Operation, **params: object) -> Verdict:
    """Check a config as the GPU process does, before and after launches that are timed."""
    found = UserCallable(operation, Path(__file__))
    inputs = found.make_inputs(PROBLEM, seed=0, device=CPU)
    ready = Prepared(GpuSide.__new__(GpuSide), found, inputs, found.right(inputs))
    config = operation.encode({"FACTOR": 2, "SIDE": "left", **params}, "here")
    verdicts = []
    for _ in range(3):
        verdicts.append(ready.verdict_on(config))
        for _ in range(2):
            ready.restore()
            ready.launching(config)()
    assert verdicts == verdicts[:1] * 3
    return verdicts[0]


def test_without_a_reference_what_the_default_gives_is_right() -> None:
    assert checked(both) == Verdict(0.0)
    assert checked(both, SIDE="right") == Verdict(0.0)
    assert checked(both, FACTOR=3).wrong.startswith(
        "y: 64 of 64 elements are wrong; the first at [0] is 3.0, but should be 2.0"
    )


def test_what_is_read_and_written_is_brought_back_and_counters_are_cleared() -> None:
    seen = []

    def noting(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> torch.Tensor:
        seen.append((float(arguments["state"][0]), int(arguments["count"][0])))
        return run(arguments, config, gpu)

    assert checked(replace(both, run=noting)) == Verdict(0.0)
    assert set(seen) == {(1.0, 0)}
    assert len(seen) >= 9


def test_clearing_may_depend_on_the_config_and_is_wrong_where_it_lacks() -> None:
    cleared = replace(both, zero=lambda sizes, config: "count" if config["SIDE"] == "left" else ())
    assert checked(cleared) == Verdict(0.0)
    assert "count: 1 of 1 elements are wrong" in checked(cleared, SIDE="right").wrong


@pytest.mark.parametrize("returned", ["y", "doubled"])
def test_an_output_that_is_not_written_whole_shows_wherever_its_memory_comes_from(returned: str) -> None:
    """A launch before has left the right result in memory that torch hands out again."""

    def skipping(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> torch.Tensor:
        doubled = run(arguments, config, gpu)
        if config["SIDE"] == "left":
            return doubled
        if returned == "doubled":
            doubled = torch.empty_like(doubled)
            doubled[1:] = 2 * arguments["x"][1:]
        else:
            arguments["y"][0] = torch.nan
        return doubled

    assert checked(replace(both, run=skipping)) == Verdict(0.0)
    wrong = checked(replace(both, run=skipping), SIDE="right").wrong
    assert wrong.startswith(f"{returned}: 1 of 64 elements are wrong; the first at [0] is nan, but should be 2.0")


def test_what_the_default_leaves_unwritten_is_not_compared() -> None:
    def half(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> torch.Tensor:
        doubled = torch.empty_like(arguments["x"])
        arguments["y"][:32] = 1
        arguments["count"] += 1
        doubled[:32] = 2
        if config["SIDE"] == "right":
            doubled[32:], arguments["y"][32:] = 3, 4
        return doubled

    assert checked(replace(both, run=half), SIDE="right") == Verdict(0.0)


def test_outputs_may_be_returned_by_name_or_in_order_and_the_reference_decides() -> None:
    def reference(arguments: Arguments) -> dict[str, torch.Tensor]:
        x = arguments["x"]
        return {"a": x + 1, "b": x + 2}

    def by_name(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> object:
        a, b = arguments["x"] + 1, arguments["x"] + 2
        return {"b": b, "a": a} if config["SIDE"] == "left" else (a, b)

    two = replace(both, run=by_name, outputs=("a", "b"), restore=(), zero=(), reference=reference)
    assert checked(two) == checked(two, SIDE="right") == Verdict(0.0)
    swapped = replace(two, run=lambda arguments, config, gpu: (arguments["x"] + 2, arguments["x"] + 1))
    assert "a: 64 of 64" in checked(swapped).wrong


def test_an_output_of_another_shape_or_none_is_wrong_and_not_an_error() -> None:
    def odd(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> object:
        doubled = run(arguments, config, gpu)
        return doubled if config["SIDE"] == "left" else doubled[:3] if config["FACTOR"] == 2 else None

    shaped = replace(both, run=odd)
    assert "doubled: got torch.float32 of shape (3,), expected torch.float32 of shape (64,)" in checked(
        shaped, SIDE="right").wrong  # fmt: skip
    assert "doubled: got nothing, expected torch.float32" in checked(shaped, SIDE="right", FACTOR=3).wrong
    with pytest.raises(InputError, match="both: outputs: 'doubled' is neither an argument nor returned"):
        checked(replace(both, run=lambda arguments, config, gpu: None))


def test_nan_is_right_where_the_reference_has_it_unless_it_is_said_not_to_be() -> None:
    def roots(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> torch.Tensor:
        return torch.sqrt(arguments["x"] - 3)

    some = replace(both, run=roots, outputs="root", restore=(), zero=(), reference=lambda a: torch.sqrt(a["x"] - 3))
    assert checked(some) == Verdict(0.0)
    with pytest.raises(InputError, match="reference: 'root' contains NaN, which is never right with equal_nan=False"):
        checked(replace(some, tolerance=Tolerance(equal_nan=False)))


def test_what_run_raises_costs_a_trial_and_no_process() -> None:
    def failing(arguments: Arguments, config: Mapping[str, Any], gpu: object) -> torch.Tensor:
        if config["SIDE"] == "right":
            raise KeyError("SIZE")
        return run(arguments, config, gpu)

    with pytest.raises(RuntimeError, match="KeyError: 'SIZE'"):
        checked(replace(both, run=failing), SIDE="right")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ()}, "both: sizes: expected the names of a problem's sizes, got none"),
        ({"space": None}, "space: expected the kernel's parameters"),
        ({"space": [{"A": 1}, {"B": 1}]}, "this config has no value for B, which other configs have"),
        ({"space": [3]}, "space: expected values by parameter, or a list of configs, got a list with 3"),
        ({"outputs": ()}, "output: expected names of arguments, each once"),
        ({"outputs": ("y", "y")}, "output: expected names of arguments, each once"),
        ({"run": 3}, "both: run: expected a function, got 3"),
        ({"make": "x"}, "both: make: expected a function, got 'x'"),
        ({"tolerance": {"z": 1.0}}, "both: tolerance: 'z' is not an output; the outputs are y, state, count, doubled"),
        ({"name": ""}, "a kernel's name"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        replace(both, **{"default": None, **change})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"restore": "z"}, "both: restore: 'z' is not an argument; make returns x, state, y, count"),
        ({"zero": "z"}, "both: zero: 'z' is not an argument; make returns x, state, y, count"),
        ({"make": lambda sizes, device: [1]}, "both: make: expected arguments by name, got list"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        UserCallable(replace(both, **change), Path(__file__)).make_inputs(PROBLEM, seed=0, device=CPU)


def test_a_list_of_configs_is_a_space_without_the_other_combinations() -> None:
    configs = [{"FACTOR": 3, "SIDE": "left"}, {"FACTOR": 1, "SIDE": "right"}, {"FACTOR": 3, "SIDE": "left"}]
    listed = replace(both, space=configs, default=None, valid=lambda sizes, config: config["FACTOR"] < 3)
    spec = UserSpec(listed, frozenset({"n"}))
    allowed = [listed.decode(config) for config in spec.search_space if spec.allows(config, PROBLEM)]
    assert allowed == [configs[1]]
    assert len(spec.search_space) == 4
    assert listed.decode(spec.default_config(PROBLEM)) == configs[1]
    assert dict(replace(listed, valid=None).default_params(PROBLEM)) == configs[0]
    beside = replace(listed, valid=None, default={"FACTOR": 1, "SIDE": "left"})
    assert UserSpec(beside, frozenset({"n"})).default_config(PROBLEM) == beside.encode(beside.default, "here")  # type: ignore[arg-type]


def test_features_do_without_a_grid() -> None:
    spec = UserSpec(replace(both, features={"half": lambda sizes, config: sizes["n"] / 2}), frozenset({"n"}))
    table = spec.features(list(spec.search_space), PROBLEM, H100)
    assert spec.feature_names == ("FACTOR", "SIDE left", "SIDE right", *LAUNCH_FEATURES, *TILE_FEATURES, "half")
    assert table.shape == (6, 10)
    assert set(table[:, 3]) == {0.0}, "torch launches all"
    assert set(table[:, -1]) == {32.0}


def test_problems_must_have_the_sizes_that_were_said() -> None:
    both.check_sizes(["n"])
    with pytest.raises(InputError, match="both: expected problems with the sizes n, got m, n"):
        both.check_sizes(["n", "m"])


def test_an_operation_is_found_by_its_name_and_its_code_counts() -> None:
    module = import_source(str(ROOT / "examples" / "split_k.py"))
    split_k = kernel_in(module, "split_k")
    source = operations_in(module)("split_k").source
    assert source.startswith("split_k.py ")

    def source_with(**change: Any) -> str:
        return UserCallable(replace(split_k, **change), Path("split_k.py")).source  # type: ignore[arg-type]

    assert source_with() == source
    assert source_with(valid=None, default=None, features={"none": lambda sizes, config: 0.0}) == source
    others = [source_with(run=run), source_with(make=make), source_with(reference=None), source_with(zero="c"),
              source_with(tolerance=0.1), source_with(restore="c"),
              source_with(tolerance=Tolerance(equal_nan=False))]  # fmt: skip
    assert len({source, *others}) == 8
