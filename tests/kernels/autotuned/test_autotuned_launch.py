"""Launches under ``bo_tune.autotune``: which config they get, and what they must not do for it. None is done here."""

import copy
import subprocess
import sys
import threading
import time
import timeit
from pathlib import Path
from types import ModuleType
from typing import Any

import autotuned_kernels as own
import pytest
import torch
import triton
import triton.language as tl
from conftest import write_table
from helpers import PATIENCE_S
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import AutotunerError
from triton.tools.tensor_descriptor import TensorDescriptor

import bo_tune
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.autotuned import misses
from bo_tune.kernels.autotuned.tuner import Autotuned, triton_configs
from bo_tune.kernels.user import frozen
from bo_tune.kernels.user.launches import told_launches

Launched = list[dict[str, Any]]
TYPES = "2xfloat32"


def winner(launched: Launched) -> dict[str, Any]:
    return {name: launched[-1][name] for name in ("BLOCK", "num_warps")}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BO_TUNE_TABLE", str(tmp_path / "own.tuned.json"))
    return write_table(
        tmp_path / "own.tuned.json",
        "double_kernel",
        ({"n": 1000, "dtypes": TYPES}, {"BLOCK": 256, "num_warps": 1, "num_stages": 3}),
        ({"n": 64000, "dtypes": TYPES}, {"BLOCK": 64, "num_warps": 4, "num_stages": 3}),
    )


def test_who_tests_for_triton_s_autotuner_finds_one() -> None:
    assert isinstance(own.double_kernel, Autotuner)
    wanted = ("configs", "keys", "cache", "arg_names", "reset_to_zero", "restore_value", "fn", "base_fn")
    assert all(hasattr(own.double_kernel, name) for name in wanted)
    hooks = own.double_kernel.user_defined_pre_hook, own.double_kernel.user_defined_post_hook
    assert (own.double_kernel.num_warmups, own.double_kernel.num_reps, *hooks) == (None, None, False, False)


def test_a_table_s_winner_is_launched_and_else_the_middle_of_the_space(launched: Launched, table: Path) -> None:
    for n, config in ((1000, (256, 1)), (64000, (64, 4)), (2000, (128, 2))):
        own.doubled(torch.empty(n))
        assert tuple(winner(launched).values()) == config
        assert own.double_kernel.best_config.kwargs["BLOCK"] == config[0]


def test_a_key_tells_types_apart(launched: Launched, table: Path) -> None:
    own.doubled(torch.empty(1000))
    own.doubled(torch.empty(1000, dtype=torch.float16))
    assert [options["BLOCK"] for options in launched] == [256, 128]


def test_a_table_is_read_once_a_key(launched: Launched, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own.doubled(torch.empty(1000))
    table.unlink()
    monkeypatch.setattr(misses.Misses, "decide", None)
    own.doubled(torch.empty(1000))
    assert [options["BLOCK"] for options in launched] == [256, 256]


def test_the_nearest_entry_stands_in_where_that_is_said(
    launched: Launched, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "nearest")
    for n, block in ((1500, 256), (32000, 64)):
        own.doubled(torch.empty(n))
        assert launched[-1]["BLOCK"] == block
    own.doubled(torch.empty(1000, dtype=torch.float16))
    assert launched[-1]["BLOCK"] == 128


def test_the_nearest_entry_that_pruning_leaves_counts(
    launched: Launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "nearest")
    entries = [
        ({"n": n, "SCALE": 3, "dtypes": TYPES}, {"BLOCK": block, "num_warps": 4, "num_stages": 3})
        for n, block in ((1000, 1024), (5000, 128))
    ]
    monkeypatch.setenv("BO_TUNE_TABLE", str(write_table(tmp_path / "t.json", "add_up_kernel", *entries)))
    own.added_up(torch.empty(1100))
    own.added_up(torch.empty(900))
    assert [options["BLOCK"] for options in launched] == [1024, 128]


def test_a_miss_may_be_an_error_in_one_line(launched: Launched, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BO_TUNE_ON_MISS", "error")
    with pytest.raises(
        bo_tune.InputError, match=r"double_kernel: .*own.tuned.json has no entry for n=7 dtypes=2xfl"
    ) as e:
        own.doubled(torch.empty(7))
    assert "\n" not in str(e.value)
    assert not launched
    monkeypatch.setenv("BO_TUNE_ON_MISS", "perhaps")
    with pytest.raises(bo_tune.InputError, match="BO_TUNE_ON_MISS: expected one of default, nearest, tune, record"):
        own.doubled(torch.empty(7))
    with pytest.raises(bo_tune.InputError, match="on_miss: expected one of"):
        bo_tune.autotune([], key=[], on_miss="perhaps")  # type: ignore[arg-type]


def test_a_table_of_an_older_kernel_is_warned_of_and_passed_over(
    launched: Launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ({"n": 1000, "dtypes": TYPES}, {"BLOCK": 256, "WAYS": 3})
    monkeypatch.setenv("BO_TUNE_TABLE", str(write_table(tmp_path / "t.json", "double_kernel", old)))
    with pytest.warns(
        RuntimeWarning, match=r"double_kernel: .*the kernel has changed since it was tuned; tune it again"
    ):
        own.doubled(torch.empty(1000))
    assert launched[-1]["BLOCK"] == 128


def test_a_table_that_is_none_is_refused_in_one_line(launched: Launched, table: Path) -> None:
    table.write_text("{")
    with pytest.raises(
        bo_tune.InputError, match=r"own.tuned.json: expected a table that bo_tune wrote: not JSON"
    ) as raised:
        own.doubled(torch.empty(1000))
    assert "\n" not in str(raised.value)


def test_the_table_beside_the_module_is_found(
    launched: Launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "__file__", str(tmp_path / "own.py"))
    config = {"BLOCK": 256, "num_warps": 4, "num_stages": 3}
    write_table(tmp_path / "own.tuned.json", "double_kernel", ({"n": 1000, "dtypes": TYPES}, config))
    own.doubled(torch.empty(1000))
    assert winner(launched) == {"BLOCK": 256, "num_warps": 4}


def test_nothing_is_tuned_while_a_graph_is_captured_and_the_next_launch_may(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setenv("BO_TUNE_ON_MISS", "tune")
    monkeypatch.setattr(misses, "tune_in_child", lambda call, *more: asked.append(call))
    monkeypatch.setattr(misses, "is_capturing", lambda: True)
    own.doubled(torch.empty(1000))
    assert (asked, winner(launched)) == ([], {"BLOCK": 128, "num_warps": 2})
    monkeypatch.setattr(misses, "is_capturing", lambda: False)
    own.doubled(torch.empty(1000))
    own.doubled(torch.empty(1000))
    assert [call.sizes for call in asked] == [{"n": 1000, "dtypes": TYPES}]


def test_what_cannot_be_tuned_is_told_once_and_the_default_runs(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise bo_tune.InputError("CUDA device 0 cannot be used: there is none")

    monkeypatch.setenv("BO_TUNE_ON_MISS", "tune")
    monkeypatch.setattr(misses, "tune_in_child", fail)
    with pytest.warns(
        RuntimeWarning, match="double_kernel: CUDA device 0 cannot be used: there is none: running its default"
    ):
        own.doubled(torch.empty(1000))
    own.doubled(torch.empty(2000))
    assert [options["BLOCK"] for options in launched] == [128, 128]


def test_threads_that_launch_the_same_wait_for_one_decision(
    launched: Launched, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided, decide = [], misses.Misses.decide

    def slowly(self: Any, *given: Any) -> Any:
        decided.append(threading.get_ident())
        time.sleep(0.05)
        return decide(self, *given)

    monkeypatch.setattr(misses.Misses, "decide", slowly)
    threads = [threading.Thread(target=own.doubled, args=(torch.empty(n),)) for n in (1000, 64000) * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decided) == 2
    assert sorted(options["BLOCK"] for options in launched) == [64] * 8 + [256] * 8


def test_best_reads_the_table_of_one_and_tune_says_what_to_do_with_it(launched: Launched, table: Path) -> None:
    found = bo_tune.best(own.double_kernel, {"n": 1000, "dtypes": TYPES}, table)
    assert found == {"BLOCK": 256, "num_warps": 1, "num_stages": 3}
    with pytest.raises(bo_tune.InputError, match=r"got Autotuned; bo_tune.Kernel takes a kernel under an autotuner"):
        bo_tune.tune(own.double_kernel, [{"n": 4}])


def test_a_kernel_stays_one_where_what_holds_it_is_copied(launched: Launched) -> None:
    assert copy.deepcopy({"kernel": own.double_kernel})["kernel"] is own.double_kernel


def test_an_argument_that_could_not_be_made_anew_is_no_obstacle_to_a_look_up(
    launched: Launched, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.empty(1000)
    own.double_kernel[(1,)](x, x, 1000, extra=abs)
    assert launched[-1]["BLOCK"] == 256
    monkeypatch.setenv("BO_TUNE_ON_MISS", "record")
    with pytest.warns(
        RuntimeWarning, match="double_kernel: extra is a builtin_function_or_method, which cannot be recreated"
    ):
        own.double_kernel[(1,)](x, x, 999, extra=abs)
    assert launched[-1]["BLOCK"] == 128


def test_arguments_by_name_are_the_same_call(launched: Launched, table: Path) -> None:
    x = torch.empty(1000)
    own.double_kernel[(1,)](x, y=x, n=1000)
    own.double_kernel[(1,)](n=1000, x=x, y=x)
    assert [options["BLOCK"] for options in launched] == [256, 256]


def test_a_config_s_hook_runs_before_each_launch(launched: Launched) -> None:
    a = torch.empty(64, 64, dtype=torch.float16)
    described = [TensorDescriptor.from_tensor(a, [1, 16]) for _ in "abc"]
    for _ in range(2):
        own.described_kernel[(4, 4)](*described, 64)
        assert [one.block_shape for one in described] == [[16, 32], [32, 16], [16, 16]]
        described[0].block_shape = [1, 16]


def test_pruning_that_leaves_nothing_is_triton_s_error(launched: Launched) -> None:
    with pytest.raises(AutotunerError, match="add_up_kernel: prune_configs_by: no config is left"):
        own.added_up(torch.empty(10))


def test_winners_are_kept_in_triton_s_cache_where_that_is_said(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    entry = {"sizes": {"n": 1000, "dtypes": TYPES}, "config": {"BLOCK": 256, "num_warps": 1, "num_stages": 3}}

    def tune(call: Any, kernel: str, settings: Any, table: Path, index: int) -> Any:
        write_table(table, kernel, (entry["sizes"], entry["config"]))
        return frozen.exact(frozen.entries_of(kernel, call.gpu, table), call.sizes)

    monkeypatch.setattr(misses, "tune_in_child", tune)
    space = {"BLOCK": (64, 128, 256), "num_warps": (1, 2, 4)}
    for on_miss in ("tune", "error"):
        kept = bo_tune.autotune(space, key=["n"], on_miss=on_miss, cache_results=True)(own.double_kernel.jit)  # type: ignore[arg-type]
        monkeypatch.setattr(own, "kept", kept, raising=False)
        kept[(1,)](torch.empty(1000), torch.empty(1000), 1000)
        assert winner(launched) == {"BLOCK": 256, "num_warps": 1}
    (table,) = (tmp_path / "triton").rglob("*.tuned.json")
    assert "kept" in table.read_text()


def test_one_config_is_launched_without_a_look_up(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    single = bo_tune.autotune([triton.Config({"BLOCK": 64})], key=["n"], on_miss="error")(own.double_kernel.fn)
    single[(1,)](torch.empty(4), torch.empty(4), 4)
    assert launched[-1]["BLOCK"] == 64


def test_a_space_is_all_combinations_the_middle_first() -> None:
    configs = triton_configs({"A": (1, 2, 3), "num_warps": (1, 2, 4), "launch_pdl": (False,)})
    assert len(configs) == 9
    assert configs[0].all_kwargs() == {
        "A": 2, "launch_pdl": False, "num_warps": 2, "num_ctas": 1, "num_stages": 3
    }  # fmt: skip
    with pytest.raises(bo_tune.InputError, match="configs: A: no values"):
        triton_configs({"A": ()})
    with pytest.raises(bo_tune.InputError, match="configs: D: more than 20000 configs"):
        triton_configs({name: tuple(range(12)) for name in "ABCD"})
    with pytest.raises(
        bo_tune.InputError, match="expected values by parameter, or a list of configs, got a list with 3"
    ):
        triton_configs([3])


def test_what_cannot_be_under_the_decorator_is_refused_in_one_line() -> None:
    again = bo_tune.autotune([triton.Config({"BLOCK": 64})], key=["n"])
    with pytest.raises(bo_tune.InputError, match=r"double_kernel: another autotuner already wraps this kernel"):
        again(own.double_kernel)
    with pytest.raises(bo_tune.InputError, match=r"expected a function under @triton.jit, got function"):
        again(lambda x: x)

    from triton.experimental import gluon  # noqa: PLC0415

    @gluon.jit
    def gluon_kernel(x, n):
        pass

    with pytest.raises(bo_tune.InputError, match=r"got GluonJITFunction; launch it from the run= of a"):
        again(gluon_kernel)


def test_a_kernel_of_no_module_runs_its_default_and_says_what_to_do(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    @triton.jit
    def local_kernel(x, n, BLOCK: tl.constexpr):
        tl.store(x + tl.arange(0, BLOCK), 0)

    local = bo_tune.autotune({"BLOCK": (64, 128)}, key=["n"], on_miss="record")(local_kernel)
    with pytest.warns(RuntimeWarning, match="local_kernel: expected a global of a module or script"):
        local[(1,)](torch.empty(4), 4)
    assert launched[-1]["BLOCK"] in (64, 128)


def test_bo_tune_s_kernel_takes_one_under_the_decorator_with_its_pruning() -> None:
    def inputs(sizes: Any, device: Any) -> dict[str, Any]:
        x, total = (torch.empty(size, device=device) for size in (sizes["n"], 1))
        return {"x": x, "total": total, "n": sizes["n"], "bias": None}

    kernel = bo_tune.Kernel(
        own.add_up_kernel,
        inputs=inputs,
        grid=lambda sizes, config: triton.cdiv(sizes["n"], config["BLOCK"]),
        output=("x", "total"),
    )  # fmt: skip
    allowed = [
        one["BLOCK"] for one in kernel.listed if kernel.allows(SizedProblem("add_up_kernel", (("n", 200),)), one)
    ]
    assert (allowed, kernel.zero, kernel.read_outputs) == ([64, 64, 128, 128], ("total",), ("x",))


def test_an_operation_that_launches_one_under_the_decorator_is_refused() -> None:
    with pytest.raises(bo_tune.InputError, match="several: run: double_kernel is under an autotuner; launch it"):
        told_launches(lambda: own.doubled(torch.empty(64, device="meta")), "several")


def test_a_kernel_that_was_made_at_run_time_runs_its_default_and_says_what_to_do(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ModuleType("made_at_run_time")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    made.kernel = bo_tune.autotune({"BLOCK": (64, 128)}, key=["n"], on_miss="record")(own.double_kernel.jit)  # type: ignore[attr-defined]
    with pytest.warns(RuntimeWarning, match="define the kernel in a file, not in code that is generated at run time"):
        made.kernel[(1,)](torch.empty(4), torch.empty(4), 4)
    assert launched[-1]["BLOCK"] in (64, 128)


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (
            [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128}, ir_override="x.ttir")],
            "with ir_override cannot",
        ),
        ([triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 64, "MORE": 1})], "this config has no value for MORE"),
    ],
)
def test_configs_that_cannot_be_searched_are_told_of_and_the_first_runs(
    configs: list[triton.Config], message: str, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = bo_tune.autotune(configs, key=["n"], on_miss="record")(own.double_kernel.jit)
    monkeypatch.setattr(own, "odd", odd, raising=False)
    with pytest.warns(RuntimeWarning, match=message):
        odd[(1,)](torch.empty(4), torch.empty(4), 4)
    assert launched[-1]["BLOCK"] == 64


def test_hooks_of_one_s_own_are_told_of_where_they_are_in_the_way(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked = bo_tune.autotune(
        {"BLOCK": (64, 128)}, key=["n"], on_miss="record", pre_hook=lambda arguments, reset_only=False: None
    )(own.double_kernel.fn)
    monkeypatch.setattr(own, "hooked", hooked, raising=False)
    with pytest.warns(RuntimeWarning, match="autotune has a pre_hook or post_hook of its own, .* use reset_to_zero"):
        hooked[(1,)](torch.empty(4), torch.empty(4), 4)


@pytest.mark.slow
def test_a_launch_costs_no_more_than_three_us_over_triton_s() -> None:
    """On a busy machine the quickest of many rounds, taken in turn, tells."""

    class Nothing:
        fn, arg_names = own.double_kernel.jit.fn, own.double_kernel.jit.arg_names

        def run(self, *args: Any, **options: Any) -> None:
            """Launch nothing."""

    configs = [triton.Config({"BLOCK": block}) for block in (64, 128)]
    theirs = triton.autotune(configs, key=["n"], do_bench=lambda call, quantiles: [1.0] * 3)(own.double_kernel.jit)
    ours = bo_tune.autotune(configs, key=["n"], on_miss="default")(own.double_kernel.jit)
    x, taken = torch.empty(64), {"theirs": [], "ours": []}  # type: ignore[var-annotated]
    for tuner in (theirs, ours):
        tuner.fn = Nothing()
        tuner.cache[64, "torch.float32", "torch.float32"] = configs[0]
    ours._winners[ours._key_of((x, x, 64), {"grid": 1, "warmup": 1})] = configs[0], configs[0].all_kwargs()
    for _ in range(20):
        for name, tuner in (("theirs", theirs), ("ours", ours)):
            taken[name].append(timeit.timeit(lambda launch=tuner[(1,)]: launch(x, x, 64), number=500) / 500 * 1e6)
    assert min(taken["ours"]) <= min(taken["theirs"]) + 3


@pytest.mark.slow
def test_a_look_up_loads_no_database_and_no_search(tmp_path: Path, table: Path) -> None:
    code = (
        "import sys, torch; from triton.runtime.jit import JITFunction; JITFunction.run = lambda *a, **o: None\n"
        "import autotuned_kernels as own; own.doubled(torch.empty(1000)); own.doubled(torch.empty(3))\n"
        "heavy = 'optuna', 'sqlalchemy', 'alembic', 'scipy', 'rich', 'typer', 'filelock', 'torch._dynamo'\n"
        "print(own.double_kernel.best_config.kwargs, sorted(set(heavy) & set(sys.modules)))"
    )
    path = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert done.stdout == "{'BLOCK': 128} []\n"


def test_names_are_those_of_the_package() -> None:
    assert bo_tune.autotune.__module__ == Autotuned.__module__
    assert bo_tune.tune_recorded.__module__ == "bo_tune.recorded"
    assert frozen.SUFFIX == ".tuned.json"
