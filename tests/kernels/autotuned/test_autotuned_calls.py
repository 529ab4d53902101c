"""Recorded calls: what they say, and what is made of them in another process."""

import json
from pathlib import Path
from typing import Any

import autotuned_kernels as own
import pytest
import torch
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.tools.tensor_descriptor import TensorDescriptor

import bo_tune
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.autotuned import calls, misses
from bo_tune.kernels.autotuned.calls import CallWriter, RecordedCall, read_calls
from bo_tune.kernels.autotuned.definition import AutotunedKernel
from bo_tune.kernels.autotuned.described import described, made, size_of, types_of
from bo_tune.kernels.user.operation import operation_of
from bo_tune.processes.importing import import_source

CPU, META = torch.device("cpu"), torch.device("meta")


def told(arguments: dict[str, Any]) -> dict[str, Any]:
    """Describe arguments, through JSON."""
    known: dict[int, str] = {}
    said: dict[str, Any] = json.loads(json.dumps({n: described(n, v, known) for n, v in arguments.items()}))
    return said


def call(**change: Any) -> RecordedCall:
    said: dict[str, Any] = {
        "home": "own", "kernel": "k", "key": ("n",), "arguments": {**told({"x": torch.empty(4)}), "n": 4},
        "grids": ((1,), (2, 3)), "grid_of": (0, 1, -1),
    }  # fmt: skip
    return RecordedCall(**{**said, **change})


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    skip=st.integers(0, 9),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn]),
)
def test_a_tensor_is_made_anew_with_its_shape_strides_type_and_alignment(
    shape: list[int], order: Any, step: int, skip: int, dtype: torch.dtype
) -> None:
    places = list(range(len(shape)))
    order.shuffle(places)
    base = torch.zeros([size * step for size in shape], dtype=dtype).permute(places)
    view = base[tuple(slice(None, None, step) for _ in places)]
    whole = torch.zeros(view.untyped_storage().nbytes() // dtype.itemsize + skip, dtype=dtype)
    x = whole.as_strided(view.shape, view.stride(), skip)
    (again,) = made(told({"x": x}), CPU).values()
    assert (again.shape, again.stride(), again.dtype) == (x.shape, x.stride(), x.dtype)
    if x.numel():
        assert again.data_ptr() % 16 == x.data_ptr() % 16
    (nothing,) = made(told({"x": x}), META).values()
    assert (nothing.shape, nothing.stride(), nothing.device.type) == (x.shape, x.stride(), "meta")


def test_other_arguments_come_back_as_they_are() -> None:
    values = {
        "none": None, "yes": True, "n": 3, "scale": 0.5, "most": float("inf"), "mode": "gelu", "acc": tl.float32,
        "type": torch.bfloat16, "shape": (2, (None, 0.5)), "constant": tl.constexpr(7),
    }  # fmt: skip
    assert made(told(values), CPU) == {**values, "constant": 7}


def test_descriptors_and_tensors_that_are_given_twice_are_made_so() -> None:
    x = torch.zeros(64, 64, dtype=torch.float16)
    again = made(told({"a": TensorDescriptor.from_tensor(x, [16, 32]), "x": x, "flat": x.view(-1)}), CPU)
    assert list(again["a"].block_shape) == [16, 32]
    assert again["a"].base.data_ptr() == again["x"].data_ptr() == again["flat"].data_ptr()
    assert types_of(told({"a": TensorDescriptor.from_tensor(x, [16, 32]), "x": x, "n": 1})) == "2xfloat16"


def test_what_cannot_be_made_anew_is_refused_in_a_line_that_says_what_to_do() -> None:
    with pytest.raises(
        bo_tune.InputError, match=r"f is a function, which cannot be recreated .*; describe the kernel with bo"
    ):
        told({"f": lambda: None})


@pytest.mark.parametrize(
    ("value", "size"),
    [(3, 3), (True, True), (0.5, 0.5), ("gelu", "gelu"), (None, "None")],
)
def test_a_key_s_values_are_sizes_where_they_can_be(value: Any, size: Any) -> None:
    assert size_of(described("k", value, {})) == size


@pytest.mark.parametrize("value", [2**40, "a b", (1, 2), float("nan"), tl.float32, "x" * 80])
def test_other_values_of_a_key_are_told_by_a_word(value: Any) -> None:
    size = size_of(described("k", value, {}))
    assert SizedProblem("k", (("k", size),)).sizes
    assert size == size_of(described("k", value, {}))


def test_a_call_s_problem_has_its_key_its_types_and_a_digest_of_the_rest() -> None:
    one = call()
    assert one.problem("k").sizes == (("n", 4), ("dtypes", "float32"), ("call", one.digest))
    assert call(grids=((1,), (2, 4))).digest != one.digest
    assert call(home="elsewhere", gpu="another").digest == one.digest


def test_calls_are_written_once_each_and_read_back(tmp_path: Path) -> None:
    writer = CallWriter(tmp_path / "calls")
    assert [writer.write(one) for one in (call(), call(), call(kernel="other"))] == [True, False, True]
    (path,) = (tmp_path / "calls").iterdir()
    assert read_calls(tmp_path / "calls") == read_calls(path) == [call(), call(kernel="other")]


def test_a_process_writes_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_CALLS", 3)
    writer = CallWriter(tmp_path)
    assert [writer.write(call(kernel=f"k{n}")) for n in range(5)] == [True] * 3 + [False] * 2
    monkeypatch.setattr(calls, "MOST_CALLS", 100)
    monkeypatch.setattr(calls, "MOST_BYTES", 1)
    assert not writer.write(call(kernel="k9"))


def test_a_line_that_a_killed_process_left_unfinished_is_passed_over(tmp_path: Path) -> None:
    CallWriter(tmp_path).write(call())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + path.read_bytes()[:40])
    assert read_calls(tmp_path) == [call()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n", r"calls.jsonl:1: expected a call that bo_tune recorded: not JSON"),
        ("[]\n", r"calls.jsonl:1: expected a call that bo_tune recorded: the whole"),
        ('{"home": 3}\n', r"calls.jsonl:1: expected a call that bo_tune recorded: home"),
        (
            call().model_dump_json().replace('["n"]', '["N"]') + "\n",
            "key: expected names of arguments, got another name",
        ),
        (
            call().model_dump_json().replace("[0,1,-1]", "[0,7]") + "\n",
            "grid_of: expected positions in grids, got another position",
        ),
        (
            call().model_dump_json().replace("[2,3]", "[0]") + "\n",
            "grids: expected one to three positive numbers in each",
        ),
        ("", "its files hold no complete call"),
    ],
)
def test_files_that_hold_something_else_are_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.calls.jsonl").write_text(content)
    with pytest.raises(bo_tune.InputError, match=message) as raised:
        read_calls(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_without_calls_and_one_that_cannot_be_written_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        bo_tune.InputError, match="there are no recorded calls; run the program with BO_TUNE_ON_MISS=record"
    ):
        bo_tune.tune_recorded(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(bo_tune.InputError, match="set BO_TUNE_CALLS to a folder that can be written"):
        CallWriter(tmp_path / "file" / "calls").write(call())


def test_a_program_that_cannot_be_imported_here_is_told_in_one_line(tmp_path: Path) -> None:
    CallWriter(tmp_path).write(call(home="no_such_module"))
    with pytest.raises(bo_tune.InputError, match=r"no_such_module cannot be imported .*; tune where the program runs"):
        bo_tune.tune_recorded(tmp_path)
    with pytest.raises(bo_tune.InputError, match="no calls of another"):
        bo_tune.tune_recorded(tmp_path, kernels=["another"])


def test_a_call_s_study_is_not_another_one_for_edits_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(own.__file__).read_text()
    sources = {}
    for name, changed in {
        "as_it_is": text,
        "elsewhere": text.replace("values + 1", "values + 2").replace('"""Kernels', '"""More kernels'),
        "its_configs": text.replace("(64, 128, 256)", "(64, 128, 256, 512)"),
        "its_code": text.replace("mask=place < n) * 2", "mask=place < n) * 3"),
    }.items():
        (tmp_path / f"{name}.py").write_text(f"\n{changed}")
        kernel = import_source(str(tmp_path / f"{name}.py")).double_kernel.definition
        sources[name] = operation_of(kernel, Path("own.py")).source
    assert sources["as_it_is"] == sources["elsewhere"] == sources["its_configs"] != sources["its_code"]


def test_damaged_descriptions_are_refused_in_one_line() -> None:
    for said in ({"tensor": "float33"}, {"tensor": "float32", "shape": [1]}, {"descriptor": 3}, {"triton": "fp17"}, {}):
        with pytest.raises(bo_tune.InputError, match="the recorded arguments cannot be recreated"):
            made({"x": said}, CPU)


def recorded(launched: list[Any], monkeypatch: pytest.MonkeyPatch, folder: Path, launch: Any) -> RecordedCall:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    monkeypatch.setenv("BO_TUNE_CALLS", str(folder))
    monkeypatch.setattr(misses, "_WRITERS", {})
    launch()
    (one,) = read_calls(folder)
    monkeypatch.setenv(calls.TUNED_VARIABLE, str(folder))
    return one


def test_a_launch_is_recorded_with_its_grids_and_runs_the_default(
    launched: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = recorded(launched, monkeypatch, tmp_path / "c", lambda: own.doubled(torch.empty(1000)))
    assert (one.home, one.kernel, one.sizes) == (
        "autotuned_kernels",
        "double_kernel",
        {"n": 1000, "dtypes": "2xfloat32"},
    )
    blocks = [params["BLOCK"] for params in own.double_kernel.definition.listed]
    assert [one.grids[place] for place in one.grid_of] == [(-(-1000 // block),) for block in blocks]
    assert launched[-1]["BLOCK"] == 128


def test_pruning_heuristics_and_none_are_recorded_as_the_launch_had_them(
    launched: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = recorded(launched, monkeypatch, tmp_path / "c", lambda: own.added_up(torch.rand(200)))
    assert one.sizes == {"n": 200, "SCALE": 3, "dtypes": "2xfloat32"}
    kernel = own.add_up_kernel.fn.definition
    assert isinstance(kernel, AutotunedKernel)
    problem = one.problem("add_up_kernel")
    allowed = [params for params in kernel.listed if kernel.allows(problem, params)]
    assert [params["BLOCK"] for params in allowed] == [64, 64, 128, 128]
    assert kernel.default_params(problem) == {"BLOCK": 64, "num_warps": 2, "num_stages": 3}
    assert kernel.programs(problem, allowed[-1]) == (2, 1, 1)
    elsewhere = {**allowed[-1], "num_warps": 16}
    assert (kernel.allows(problem, elsewhere), kernel.programs(problem, elsewhere)) == (False, (1, 1, 1))
    arguments = kernel.arguments(dict(problem.sizes), META)
    assert arguments["bias"] is None
    assert kernel.outputs_in(arguments) == ("x", "total")


def test_a_call_of_other_configs_is_told_to_be_recorded_again(
    launched: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = recorded(launched, monkeypatch, tmp_path / "c", lambda: own.doubled(torch.empty(1000)))
    other = bo_tune.autotune({"BLOCK": (64, 128)}, key=["n"])(own.double_kernel.fn).definition
    with pytest.raises(
        bo_tune.InputError, match="its configs have changed since the call was recorded; record it again"
    ):
        other.default_params(one.problem("double_kernel"))
    monkeypatch.delenv(calls.TUNED_VARIABLE)
    with pytest.raises(bo_tune.InputError, match="is tuned through its recorded calls; use bo_tune"):
        own.double_kernel.definition.default_params(one.problem("double_kernel"))


def test_integers_are_filled_by_the_author_where_zero_will_not_do(
    launched: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = torch.arange(5, dtype=torch.int32)
    one = recorded(launched, monkeypatch, tmp_path / "c", lambda: own.gathered(torch.empty(5, 70), rows))
    kernel = own.gather_kernel.definition
    assert isinstance(kernel, AutotunedKernel)
    assert kernel.arguments(one.sizes | {"call": one.digest}, CPU)["rows"].tolist() == [0, 1, 2, 3, 4]
    assert (kernel.output_names, kernel.written_only) == (("out",), ("out",))
