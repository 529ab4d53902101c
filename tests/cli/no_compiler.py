"""The compiler of ``gpus.py``, which knows the kernels, and compiles none."""

import os
import time
from typing import ClassVar

from bo_tune.core.outcome import Compilation, Resources
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config
from bo_tune.measure.compile import worker as compile_worker
from bo_tune.measure.device import Build, Compiled


class NoCompiler(compile_worker.Compiler):
    """Answers at once, or after ``FAKE_COMPILE_S``."""

    resources: ClassVar = Resources(1024, 32, 0)

    def compile(self, problem: Problem, config: Config) -> Build:
        time.sleep(float(os.environ.get("FAKE_COMPILE_S", "0")))
        return Compiled(Compilation(0.01), self.resources, "")


def main(arguments: list[str], fd: int) -> None:
    """Serve as a compiler."""
    compile_worker.Compiler = NoCompiler  # type: ignore[misc]
    compile_worker.main(arguments, fd)
