"""``triton.autotune`` over the grid of a kernel, for ``own_kernels`` and ``drop_in``: a process of its own.

    python benchmarks/autotuned.py REQUEST.json ANSWER.json

The request names the file, the kernel, the problems, ranges that replace those of the kernel, and the seconds. The
answer is rewritten after each problem, so that one that was killed is worth something. Configs are timed by
autotune's own ``do_bench``; what it launches is counted on its way. An operation of several kernels, which autotune
cannot take, is timed by the same ``do_bench``, one config after the other as autotune does.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from bo_tune import Kernel, Operation
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.spec import LAUNCH_OPTIONS
from bo_tune.kernels.target import target_gpu
from bo_tune.kernels.user.definition import Definition
from bo_tune.processes.importing import import_source

NO_TIME = [float("inf")] * 3
"""What autotune takes for a config that cannot run."""


class Counted:
    """Autotune's ``do_bench`` with launches, compiles and failures counted; nothing runs past the deadline."""

    def __init__(self, do_bench: Callable[..., Any], deadline: float) -> None:
        self._do_bench, self._deadline = do_bench, deadline
        self.launches = self.launched = self.failed = self.left_out = self.compiles = 0
        self.gpu_s = 0.0
        triton.knobs.compilation.listener = self._compiled

    def _compiled(self, *, cache_hit: bool, **_: Any) -> None:
        self.compiles += not cache_hit

    def __call__(self, kernel_call: Callable[[], None], quantiles: Sequence[float]) -> Any:
        """Time one config."""
        if time.perf_counter() > self._deadline:
            self.left_out += 1
            return NO_TIME

        def counted() -> None:
            kernel_call()
            self.launches += 1

        before, began = self.launches, time.perf_counter()
        try:
            return self._do_bench(counted, quantiles=quantiles)
        except (CompilationError, OutOfResources, RuntimeError, ValueError) as error:  # goes on whatever a config does
            print(f"{type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
            self.failed += 1
            return NO_TIME
        finally:
            self.launched += self.launches > before
            self.gpu_s += time.perf_counter() - began

    def figures(self) -> dict[str, Any]:
        """Return what was counted so far; of the seconds those of ``do_bench``, compiling in it included."""
        names = ("launches", "launched", "failed", "left_out", "compiles", "gpu_s")
        return {name: getattr(self, name) for name in names}


def configs_of(kernel: Definition, problem: SizedProblem, space: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the configs of the grid that the kernel allows, in order."""
    ranges = {**kernel.space, **space}
    every = [dict(zip(ranges, values, strict=True)) for values in product(*ranges.values())]
    return [params for params in every if kernel.allows(problem, params)]


def autotuned(kernel: Kernel, problem: SizedProblem, configs: Sequence[Mapping[str, Any]], counted: Counted) -> Any:
    """Autotune the kernel on one problem; return autotune's own choice."""
    given = kernel.inputs(dict(problem.sizes), torch.device("cuda"))
    triton_configs = [
        triton.Config(
            {name: value for name, value in params.items() if name not in LAUNCH_OPTIONS},
            **{name: value for name, value in params.items() if name in LAUNCH_OPTIONS},
            pre_hook=partial(set_block_shapes, kernel.block_shapes) if kernel.block_shapes else None,
        )
        for params in configs
    ]
    restored = [name for name in kernel.read_outputs if name in given]
    key = [name for name, value in given.items() if isinstance(value, int)]
    tuner = triton.autotune(configs=triton_configs, key=key, do_bench=counted, restore_value=restored)(kernel.function)
    options = {name for params in configs for name in params if name in LAUNCH_OPTIONS}

    def grid(meta: Mapping[str, Any]) -> tuple[int, ...]:
        # Of launch options, autotune tells the grid nothing.
        return kernel.programs(
            problem, {**dict.fromkeys(options, 1), **{n: meta[n] for n in meta if n in kernel.space}}
        )

    tuner[grid](**given)
    torch.cuda.synchronize()
    return tuner.best_config.all_kwargs()


def set_block_shapes(shapes: Mapping[str, Sequence[Any]], arguments: dict[str, Any]) -> None:
    """Have descriptors follow a config, as a ``pre_hook`` of Triton's does."""
    for name, sides in shapes.items():
        arguments[name].block_shape = [arguments[side] if isinstance(side, str) else side for side in sides]


def timed_in_turn(
    operation: Operation, problem: SizedProblem, configs: Sequence[Mapping[str, Any]], counted: Counted
) -> Mapping[str, Any]:
    """Do as autotune does with an operation, and return the config of the least time."""
    given = dict(operation.make(dict(problem.sizes), torch.device("cuda")))
    gpu = target_gpu()
    times = {}
    for place, config in enumerate(configs):
        first = counted(lambda config=config: operation.run(given, config, gpu), quantiles=(0.5, 0.2, 0.8))[0]
        times[place] = first
    return configs[min(times, key=times.__getitem__)]


def main() -> None:
    """Answer one request."""
    request = json.loads(Path(sys.argv[1]).read_text())
    start = time.perf_counter()
    deadline = start + request["seconds"]
    module = import_source(request["example"])
    kernel = next(v for v in vars(module).values() if isinstance(v, Definition) and v.name == request["kernel"])
    torch.zeros(1, device="cuda")  # the context is no part of tuning
    counted = Counted(triton.runtime.driver.active.get_benchmarker(), deadline)
    answers: list[dict[str, Any]] = []
    for sizes in request["problems"]:
        problem = SizedProblem(kernel.name, tuple(sizes.items()))
        configs = configs_of(kernel, problem, request["space"])
        before, began = counted.figures(), time.perf_counter()
        search = timed_in_turn if isinstance(kernel, Operation) else autotuned
        chosen = search(kernel, problem, configs, counted)  # type: ignore[arg-type]
        done = {name: round(count - before[name], 3) for name, count in counted.figures().items()}
        wall_s = round(time.perf_counter() - began, 2)
        config = {name: chosen[name] for name in kernel.space}
        answers.append({"problem": sizes, "config": config, "grid": len(configs), "wall_s": wall_s, **done})
        Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
