"""What compilers tell of kernels, to a process that loads neither torch nor triton."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import H100

from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import config_key
from bo_tune.errors import DeviceError
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.compile import compilers as compilers_module
from bo_tune.measure.compile.compilers import Compilers, binary_name
from bo_tune.measure.compile.farm import CompileFarm
from bo_tune.measure.compile.times import CompileTimes
from bo_tune.measure.source import BUILTIN, operations_of
from bo_tune.processes.fork_server import ForkServer

pytestmark = pytest.mark.slow

PROBLEM = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
CONFIGS = list(kernel_spec("lora_shrink").search_space)[::97]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        made = ForkServer(["bo_tune.measure.compile.worker", BUILTIN])
    yield made
    made.close()


@pytest.fixture(scope="module")
def farm(server: ForkServer) -> Iterator[CompileFarm]:
    made = CompileFarm(server, H100, BUILTIN, workers=1, times=CompileTimes(60.0))
    yield made
    made.close()


def test_they_are_what_the_kernel_itself_says(farm: CompileFarm) -> None:
    kernel, compilers = operations_of(BUILTIN)("lora_shrink"), Compilers(farm, H100)
    assert compilers.kernel_source("lora_shrink") == kernel.source
    told = compilers.effective_configs(PROBLEM, CONFIGS)
    assert list(map(config_key, told)) == [config_key(kernel.effective_config(PROBLEM, c, H100)) for c in CONFIGS]
    names = [binary_name(kernel.compile_key(PROBLEM, config, H100)) for config in CONFIGS]
    assert compilers.numbers(PROBLEM, CONFIGS) == [farm.number(name) for name in names]


def test_configs_are_asked_about_once(farm: CompileFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers, asked = Compilers(farm, H100), []
    ask = farm.ask
    monkeypatch.setattr(farm, "ask", lambda call, timeout_s: (asked.append(call), ask(call, timeout_s))[1])
    first = compilers.numbers(PROBLEM, CONFIGS[:3])
    assert compilers.numbers(PROBLEM, [dict(reversed(c.items())) for c in CONFIGS[:3]]) == first
    assert len(asked) == 1
    compilers.numbers(PROBLEM, CONFIGS[:4])
    assert [len(rows) for *_, rows in asked] == [3, 1]


def test_a_source_that_refuses_says_why_in_a_line(server: ForkServer) -> None:
    farm = CompileFarm(server, H100, "refusing", workers=1, times=CompileTimes(60.0))
    with pytest.raises(DeviceError, match=r"^this source is of another time$"):
        Compilers(farm, H100).kernel_source("lora_shrink")
    farm.close()


def test_a_source_that_fails_is_named(server: ForkServer) -> None:
    farm = CompileFarm(server, H100, "no_such_source", workers=1, times=CompileTimes(60.0))
    with pytest.raises(
        DeviceError,
        match=r"bo_tune cannot find out from the kernels of no_such_source what they "
        r"compile: .*No module named",
    ):
        Compilers(farm, H100).kernel_source("lora_shrink")
    farm.close()


def test_the_parent_loads_no_torch() -> None:
    code = "import sys, bo_tune.measure.gpu.device, bo_tune.measure.devices; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_configs_are_told_in_parts_as_they_are_at_once(farm: CompileFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = Compilers(farm, H100)
    whole, numbers = at_once.effective_configs(PROBLEM, CONFIGS), at_once.numbers(PROBLEM, CONFIGS)
    monkeypatch.setattr(compilers_module, "PART", 7)
    in_parts = Compilers(farm, H100)
    assert in_parts.effective_configs(PROBLEM, CONFIGS) == whole
    assert in_parts.numbers(PROBLEM, CONFIGS) == numbers
