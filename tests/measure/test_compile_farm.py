"""Compile workers that really compile for sm_90, on a machine without a GPU."""

import ast
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from helpers import H100
from triton.compiler.errors import CompilationError
from triton.runtime.errors import PTXASError

from bo_tune.core.outcome import Invalid, InvalidReason
from bo_tune.core.problem import LoraProblem
from bo_tune.errors import DeviceError
from bo_tune.measure.compile.farm import CompileFarm
from bo_tune.measure.compile.host import CompileHost
from bo_tune.measure.compile.times import CompileTimes
from bo_tune.measure.compile.worker import LONGEST_CAUSE, cause_of
from bo_tune.measure.device import Build, Compiled
from bo_tune.measure.source import BUILTIN
from bo_tune.processes.fork_server import ForkServer

pytestmark = pytest.mark.slow

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
SMALL = {
    "block_m": 16, "block_n": 32, "block_k": 32, "num_warps": 4, "num_stages": 2, "split_k": 8, "num_ctas": 1
}  # fmt: skip
LARGE = {**SMALL, "block_m": 256, "block_n": 256, "block_k": 256, "num_stages": 5}
LONG_S = 120.0


def new_farm(server: ForkServer, deadline_s: float) -> CompileFarm:
    return CompileFarm(server, H100, BUILTIN, workers=1, times=CompileTimes(deadline_s))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Triton's cache, in a folder of these tests."""
    folder = tmp_path_factory.mktemp("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[ForkServer]:
    """Forks compile workers that use the cache above."""
    made = ForkServer(["bo_tune.measure.compile.worker", BUILTIN])
    yield made
    made.close()


@pytest.fixture(scope="module")
def farm(server: ForkServer) -> Iterator[CompileFarm]:
    """A farm of one worker, started."""
    made = new_farm(server, LONG_S)
    yield made
    made.close()


def submit(on: CompileFarm, config: dict[str, int]) -> Future[Build]:
    return on.submit(on.number(tuple(config.items())), PROBLEM, config)


def compiled(on: CompileFarm, config: dict[str, int]) -> Compiled:
    build = submit(on, config).result(LONG_S)
    assert isinstance(build, Compiled), build
    return build


def test_it_compiles_for_a_gpu_that_is_not_there(farm: CompileFarm, cache: Path) -> None:
    build = compiled(farm, SMALL)
    assert not build.compilation.cached
    assert build.compilation.compile_s > 0
    assert build.resources.shared_memory_bytes is not None
    assert 0 < build.resources.shared_memory_bytes < H100.shared_memory_bytes
    assert [path for path in cache.rglob("*.cubin") if path.read_bytes().startswith(b"\x7fELF")]


def test_equal_keys_are_compiled_once(farm: CompileFarm) -> None:
    config = {**SMALL, "num_stages": 3}
    builds = [submit(farm, config) for _ in range(4)]
    first, *others = [build.result(LONG_S) for build in builds]
    assert isinstance(first, Compiled)
    assert not first.compilation.cached
    for other in others:
        assert isinstance(other, Compiled)
        assert other.compilation.cached
        assert other.compilation.compile_s == 0
        assert other.resources == first.resources


def test_a_binary_of_an_earlier_process_is_found_in_the_cache(farm: CompileFarm) -> None:
    config = {**SMALL, "num_stages": 4}
    assert not compiled(farm, config).compilation.cached
    farm._workers[0].kill()
    build = farm.submit(farm.number("another key"), PROBLEM, config).result(LONG_S)
    assert isinstance(build, Compiled)
    assert build.compilation.cached


def test_what_cannot_be_compiled_has_a_reason_and_the_worker_goes_on(farm: CompileFarm) -> None:
    build = submit(farm, {**SMALL, "block_m": 17}).result(LONG_S)
    assert isinstance(build, Invalid)
    assert build.reason is InvalidReason.COMPILE_ERROR
    assert re.fullmatch(r"CompilationError: at \d+:\d+: \S.*arange\(.*: .*power of 2.*", build.detail), build.detail
    assert isinstance(compiled(farm, {**SMALL, "split_k": 16}), Compiled)


def test_what_is_told_of_a_compile_that_failed() -> None:
    source = "def kernel(x):\n    helper(x)"
    outer = CompilationError(source, ast.parse(source).body[0].body[0])  # type: ignore[attr-defined]
    outer.__cause__ = CompilationError(source, ast.parse(source).body[0])
    outer.__cause__.__cause__ = ValueError("no\n  such thing")
    assert cause_of(outer) == "CompilationError: at 1:0: def kernel(x):: no such thing"
    assert cause_of(CompilationError(None, ast.Module())) == "CompilationError"
    said = cause_of(PTXASError("`ptxas` stderr:\nptxas fatal: no\n" + "x" * 10_000))
    assert said.startswith("PTXASError: PTXAS error: `ptxas` stderr: ptxas fatal: no xxx")
    assert len(said) == LONGEST_CAUSE


@pytest.mark.parametrize("variable", ["TRITON_CACHE_DIR", "TRITON_HOME"])
def test_a_cache_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").write_text("")
    environment = {"TRITON_CACHE_DIR": str(tmp_path / "file" / ".triton" / "cache"), variable: str(tmp_path / "file")}
    with pytest.raises(
        DeviceError,
        match=r"/file.*: Triton's cache cannot be written: Not a directory; set "
        r"TRITON_CACHE_DIR",
    ):
        CompileHost(["no.such.module"], environment, BUILTIN, workers=1, deadline_s=1.0)


def test_a_killed_compiler_costs_one_config(farm: CompileFarm) -> None:
    farm.wait_until_started()
    starts = farm._workers[0].starts
    pid = farm._workers[0].pid
    assert pid is not None
    build = submit(farm, LARGE)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    lost = build.result(LONG_S)
    assert isinstance(lost, Invalid)
    assert lost.reason is InvalidReason.COMPILE_ERROR
    assert "died" in lost.detail
    assert isinstance(compiled(farm, {**SMALL, "split_k": 32}), Compiled)
    assert farm._workers[0].starts == starts + 1


def test_a_compile_over_its_deadline_is_given_up(server: ForkServer) -> None:
    farm = new_farm(server, 0.05)
    try:
        first, second = submit(farm, LARGE), submit(farm, LARGE)
        for build in (first.result(LONG_S), second.result(LONG_S)):
            assert isinstance(build, Invalid)
            assert build.reason is InvalidReason.COMPILE_TIMEOUT
            assert build.detail == "the compile took longer than 0.05 s"
        assert first.result().compilation.compile_s == 0.05
        assert second.result().compilation.cached
        assert farm._workers[0].pid is None
        farm.times = CompileTimes(LONG_S)
        assert isinstance(compiled(farm, {**SMALL, "split_k": 64}), Compiled)
    finally:
        farm.close()


def test_what_nobody_wants_any_more_is_not_compiled(server: ForkServer) -> None:
    farm = new_farm(server, LONG_S)
    try:
        configs = [{**LARGE, "split_k": split_k} for split_k in (4, 8, 16)]
        numbers = [farm.number(tuple(config.items())) for config in configs]
        builds = [submit(farm, config) for config in configs]
        second = submit(farm, configs[2])
        wait_until(lambda: farm.activity.waiting == 2)
        farm.withdraw(numbers[1])  # still waiting
        assert builds[1].cancelled()
        farm.withdraw(numbers[2])  # another wants it
        assert not builds[2].cancelled()
        farm.withdraw(numbers[0])  # under way
        small = {**SMALL, "split_k": 2}
        assert isinstance(compiled(farm, small), Compiled)
        assert not farm.has(np.array(numbers[:2])).any()
        assert (farm.activity.withdrawn, farm.activity.waiting, farm.activity.crashes) == (2, 0, 0)
        assert second.done()
        farm.withdraw(farm.number(tuple(small.items())))  # done: it stays
        assert farm.has(np.array([farm.number(tuple(small.items()))])).all()
        assert isinstance(submit(farm, small).result(1.0), Compiled)
        assert farm.activity.withdrawn == 2
    finally:
        farm.close()


def test_what_was_withdrawn_may_be_wanted_again(server: ForkServer) -> None:
    farm = new_farm(server, LONG_S)
    try:
        config = {**SMALL, "block_n": 128, "block_k": 128, "split_k": 2}
        number = farm.number(tuple(config.items()))
        for _ in range(5):
            submit(farm, config)
            time.sleep(0.02)
            farm.withdraw(number)
        assert isinstance(compiled(farm, config), Compiled)
        assert farm.has(np.array([number])).all()
        assert farm.activity.crashes == 0
        assert farm.activity.waiting == 0
    finally:
        farm.close()


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_closing_ends_what_is_under_way(server: ForkServer) -> None:
    farm = new_farm(server, LONG_S)
    farm.wait_until_started()
    builds = [submit(farm, {**LARGE, "split_k": split_k}) for split_k in (4, 8, 16)]
    time.sleep(0.3)
    start = time.monotonic()
    farm.close()
    assert time.monotonic() - start < 10
    assert all(build.done() for build in builds)
    assert farm._workers[0].pid is None


def test_what_a_binary_takes_is_known_before_it_is_loaded(farm: CompileFarm) -> None:
    lean, spilling = (
        compiled(farm, SMALL).resources,
        compiled(farm, {**LARGE, "block_k": 32, "num_stages": 2}).resources,
    )
    for resources in (lean, spilling):
        assert resources.shared_memory_bytes is not None
        assert resources.registers_per_thread is not None
        assert 16 <= resources.registers_per_thread <= 255
    assert lean.spilled_registers == 0
    assert spilling.registers_per_thread == 255
    assert spilling.spilled_registers is not None
    assert spilling.spilled_registers > 0


def test_what_the_farm_did_is_counted(server: ForkServer) -> None:
    farm = new_farm(server, LONG_S)
    config = {**SMALL, "num_warps": 8}
    for build in [submit(farm, config), submit(farm, config), submit(farm, {**SMALL, "block_m": 17})]:
        build.result(LONG_S)
    activity = farm.activity
    assert (activity.compiles, activity.shared, activity.cached, activity.waiting) == (2, 1, 0, 0)
    assert activity.busy_s > 0
    assert farm.has(np.array([farm.number(tuple(config.items())), farm.number("never asked for")])).tolist() == [
        True,
        False,
    ]
    farm.close()
