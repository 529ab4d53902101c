"""What an engine with a tuned folder launches, and its binaries compiled ahead. Nothing is really compiled here."""

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, Resources
from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.space import Config, config_key
from bo_tune.engines.check import check_folder
from bo_tune.engines.check.findings import Lookup, Report
from bo_tune.engines.models.problems import DENSE_KERNELS
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.lookup import Crash, Found, nearest_of, switch_points
from bo_tune.measure.device import Build, Compiled
from bo_tune.precompile.warming import engine_launches, left_out, warm

SHRINK = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)


def kind(m: int) -> str:
    return "one" if m == 1 else "multiple" if m % 16 == 0 else "other"


def reported(problems: Mapping[int, Found | Crash]) -> Report:
    """Return a report of lookups of one layer."""
    lookups = [
        Lookup(LoraProblem("lora_shrink", 4, 1, m, 4096, 16), ("o_proj",), "x_SHRINK.json", {"m": m}, found)
        for m, found in problems.items()
    ]
    return Report(Path("tuned"), "x", None, None, tuple(lookups), ())


@given(keys=st.sets(st.integers(1, 300), min_size=1, max_size=6), largest=st.integers(1, 400))
def test_every_kind_of_binary_of_every_entry_is_among_the_launches(keys: set[int], largest: int) -> None:
    ordered = sorted(keys)

    def found(m: int) -> int:
        return nearest_of(ordered, m)

    sizes = {*switch_points(map(str, ordered), largest), largest}
    report = reported({m: Found((str(found(m)),), (), {"block_m": found(m)}) for m in sorted(sizes)})
    launched = {(config["block_m"], kind(problem.m)) for problem, config in engine_launches(report)}
    assert launched == {(found(m), kind(m)) for m in range(1, largest + 1)}


def test_lookups_that_fail_and_other_kernels_are_left_out() -> None:
    report = reported({16: Crash("m", "there are no m keys")})
    assert engine_launches(report) == []
    model = ModelStudy.of(
        str(ROOT / "studies/models/mixtral-8x7b"), tensor_parallel=2, ranks=[16], max_loras=[4], ms=[16]
    )
    folder = check_folder(ROOT / "studies/folders/mixtral-8x7b", model)
    kernels = {problem.kernel for problem, _ in engine_launches(folder)}
    assert kernels == set(DENSE_KERNELS)
    assert kernels < {one.problem.kernel for one in folder.lookups}
    assert list(left_out(folder)) == [
        "the kernels of experts and embeddings are left to the engine, which compiles them when it needs them"
    ]
    assert list(left_out(report)) == []


class FakeTarget:
    """Compiles at once; what has an odd block_k cannot be compiled, and what has block_k 2 was there."""

    def __init__(self) -> None:
        self.compiled: list[tuple[Problem, Config]] = []
        self.withdrawn: list[tuple[Problem, Config]] = []

    def key(self, problem: Problem, config: Config) -> object:
        assert isinstance(problem, LoraProblem)
        return kind(problem.m), config_key(config)

    def withdraw(self, problem: Problem, config: Config) -> None:
        self.withdrawn.append((problem, config))

    def compile(self, problem: Problem, config: Config) -> Future[Build]:
        self.compiled.append((problem, config))
        future: Future[Build] = Future()
        if config["block_k"] % 2:
            future.set_result(Invalid(InvalidReason.COMPILE_ERROR, "an odd size"))
        else:
            future.set_result(Compiled(Compilation(0.5, cached=config["block_k"] == 2), Resources(), "X"))
        return future


def test_each_binary_is_compiled_once_and_what_fails_is_told() -> None:
    target, seen = FakeTarget(), []
    problems = [LoraProblem("lora_shrink", 4, 1, m, 4096, 16) for m in (16, 32, 17)]
    launches = [(problem, {"block_k": size}) for problem in problems for size in (1, 2, 4)]
    warmed = warm(launches, target, lambda done, of: seen.append((done, of)))  # type: ignore[arg-type]
    assert len(target.compiled) == 6
    assert (warmed.binaries, warmed.there, warmed.failed) == (6, 2, ("compile error: an odd size",) * 2)
    assert seen == [(done, 6) for done in range(7)]


def test_after_ctrl_c_nothing_more_is_wanted() -> None:
    target = FakeTarget()

    def interrupting(done: int, of: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warm([(SHRINK, {"block_k": size}) for size in (2, 4)], target, interrupting)  # type: ignore[arg-type]
    assert target.withdrawn == target.compiled


@pytest.mark.parametrize("embedding", ["embed_tokens", "wte"])
def test_an_embedding_is_known_by_what_it_asks_for(embedding: str) -> None:
    found = Found(("16",), (), {"block_m": 16})
    both = [
        Lookup(LoraProblem(kernel, 4, 1, 16, k, n), layers, "x.json", {"m": 16}, found)
        for kernel, k, n, layers in (
            ("lora_shrink", 4096, 16, ("o_proj",)),
            ("lora_expand", 16, 4096, ("o_proj", embedding)),
        )
    ]
    (said,) = left_out(Report(Path("tuned"), "x", None, None, tuple(both), ()))
    assert said.startswith("the kernels of embeddings are left to the engine")


@pytest.mark.parametrize("m", [1, 15, 16])
def test_one_lookup_is_one_launch(m: int) -> None:
    config: dict[str, Any] = {"block_m": 16}
    (launch,) = engine_launches(reported({m: Found((str(m),), (), config)}))
    assert launch == (LoraProblem("lora_shrink", 4, 1, m, 4096, 16), config)
