"""An engine of no real program, its file format and its kernel: what a newcomer would add, and nothing else.

``rms_norm`` adds up rows. Its engine looks configs up by the number of columns and rows, in lines of plain text:
``cols=4096 rows=16: BLOCK 1024, num_warps 4``.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import log2
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, Problem, SizedProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.engines import registry
from bo_tune.engines.base import Address, Engine, Entries, Keys, WrittenConfig
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.errors import TableError
from bo_tune.kernels import registry as kernels
from bo_tune.kernels.spec import KernelSpec

_LINE = re.compile(r"(cols=\d+) (rows=\d+): (.+)")
SUFFIX = ".rms_norm.txt"


class RmsNormSpec(KernelSpec[Problem]):
    """What a search knows of the kernel."""

    name = "rms_norm"
    feature_names = ("log2 BLOCK", "log2 num_warps")

    @property
    def search_space(self) -> SearchSpace:
        return SearchSpace.of({"BLOCK": (256, 512, 1024, 2048), "num_warps": (1, 2, 4, 8)})

    def default_config(self, problem: Problem) -> dict[str, int]:
        return {"BLOCK": 256, "num_warps": 8}

    def features(self, configs: Sequence[Config], problem: Problem, gpu: GpuInfo) -> NDArray[np.float64]:
        return np.array([[log2(config["BLOCK"]), log2(config["num_warps"])] for config in configs])


class FakeEngine(Engine):
    """The engine."""

    name: ClassVar[str] = "fake"
    kernels: ClassVar[Collection[str]] = ("rms_norm",)
    patterns: ClassVar[Sequence[str]] = (f"*{SUFFIX}",)

    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        assert isinstance(problem, SizedProblem)
        sizes: Mapping[str, Any] = dict(problem.sizes)
        return Address(gpu.name.lower().replace(" ", "-") + SUFFIX, (f"cols={sizes['cols']}", f"rows={sizes['rows']}"))

    def gpu_in(self, file_name: str) -> str | None:
        return file_name.removesuffix(SUFFIX) if file_name.endswith(SUFFIX) else None

    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        found: dict[Keys, WrittenConfig] = {}
        for number, line in enumerate(text.decode().splitlines(), 1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise TableError(f"{path}: line {number}: expected keys, a colon and a config")
            words = [word.split() for word in match[3].split(", ")]
            found[match[1], match[2]] = {name: int(value) for name, value in words}
        return found

    def render(self, entries: Entries) -> bytes:
        lines = (
            f"{' '.join(keys)}: {', '.join(f'{name} {value}' for name, value in config.items())}\n"
            for keys, config in sorted(entries.items())
        )
        return "".join(lines).encode()

    def missing(self, entries: Entries) -> list[str]:
        return [] if ("cols=4096", "rows=1") in entries else ["cols=4096 rows=1"]

    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        if kernels is not None and "rms_norm" not in kernels:
            return {}
        return {SizedProblem("rms_norm", (("cols", 4096), ("rows", m))): ("norm",) for m in model.ms}


@contextmanager
def installed() -> Iterator[FakeEngine]:
    """Have the engine and its kernel known while it lasts: the two lines of registries."""
    engine = FakeEngine()
    kernels.define(RmsNormSpec())
    registry.ENGINES.append(engine)
    try:
        yield engine
    finally:
        registry.ENGINES.remove(engine)
        kernels._DEFINED.pop(RmsNormSpec.name, None)
