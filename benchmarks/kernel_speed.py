"""Compare the project's LoRA kernels with vLLM's, config by config.

Draws configs that ran in the bundled recordings, compiles both kernels for each in parallel, checks ours against
the reference, and times the two in turn, L2 cleared before each launch. Writes every figure as JSON.

    PYTHONPATH=.:.vllm python benchmarks/kernel_speed.py --vllm --out kernel_speed.json

With ``--vllm`` the kernels of the vLLM that can be imported are timed too, an installed one or what
``vllm_standins.py`` wrote. vLLM 0.33 launches expand with num_stages 1 on compute capability 9.0 whatever the config
says. Here that one option is put back, so that both kernels run the config as it is written.

With ``--offline`` nothing is launched: registers and shared memory of both are compared on a machine without a GPU.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import LoraProblem
from bo_tune.kernels import operations as builtin
from bo_tune.kernels.vllm import operations as vllm
from bo_tune.kernels.vllm.kernel_call import CapturedCall
from bo_tune.measure.compile.offline_driver import activate
from bo_tune.measure.gpu.timing import ColdTimer

RECORDINGS = Path(__file__).parents[1] / "studies" / "recordings"
LATE = "not reached before the deadline"


@dataclass(slots=True)
class Case:
    """One config of one recording, and what came of it."""

    recording: str
    problem: LoraProblem
    config: dict[str, int]
    recorded_us: float
    ours_us: float | None = None
    vllm_us: float | None = None
    ours_registers: tuple[int, int] | None = None
    vllm_registers: tuple[int, int] | None = None
    ours_shared_bytes: int | None = None
    vllm_shared_bytes: int | None = None
    relative_error: float | None = None
    failure: str | None = None


def draw_cases(count: int, seed: int) -> list[Case]:
    """Draw as many valid configs from each recording, shuffled so that a deadline cuts all alike."""
    paths = sorted(RECORDINGS.glob("*.t4.json.gz"))
    chooser = random.Random(seed)
    cases = []
    for index, path in enumerate(paths):
        content = json.loads(gzip.decompress(path.read_bytes()))
        metadata = content["metadata"]
        shape = dict(metadata["shape"], slice_sizes=tuple(metadata["shape"]["slice_sizes"]))
        problem = LoraProblem(metadata["kernel"], dtype=metadata["dtype"], add_inputs=metadata["add_inputs"], **shape)
        valid = [result for result in content["results"] if result["invalidity"] == "correct"]
        share = count // len(paths) + (index < count % len(paths))
        for result in chooser.sample(valid, share):
            recorded = next(m["value"] for m in result["measurements"] if m["name"] == "time")
            cases.append(Case(path.name.removesuffix(".t4.json.gz"), problem, result["configuration"], recorded))
    chooser.shuffle(cases)
    return cases


def vllm_call(
    problem: LoraProblem, config: dict[str, int], capability: tuple[int, int], inputs: Any = None
) -> CapturedCall:
    """Return vLLM's launch, with the options of ours: the number of stages as the config says, and fused rounding."""
    op = vllm.operation(problem.kernel)
    if inputs is None:
        call = op.capture_without_inputs(problem, config, capability)
    else:
        call = op.capture(inputs, config, capability)
    return replace(call, options={**call.options, "num_stages": config["num_stages"], "enable_fp_fusion": True})


def compile_both(case: Case, options: argparse.Namespace) -> tuple[Any, Any]:
    """Compile for the active target without launching."""
    ours = builtin.operation(case.problem.kernel).warmup(case.problem, case.config)
    if not options.vllm:
        return ours, None
    return ours, vllm_call(case.problem, case.config, divmod(options.capability, 10)).warmup()


def compile_all(cases: list[Case], options: argparse.Namespace, stop_at: float) -> None:
    """Compile every case in a process of its own, several at once; each is killed at its deadline.

    The processes are forks, so that none imports torch again. Nothing of CUDA has been touched before.
    """
    fork = multiprocessing.get_context("fork")

    def work(case: Case) -> None:
        os.setsid()  # so that ptxas, a child, is killed with it
        activate(GPUTarget("cuda", options.capability, 32))
        compile_both(case, options)

    waiting, running = list(cases), {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            case = waiting.pop(0)
            process = fork.Process(target=work, args=(case,))
            process.start()
            running[process.sentinel] = (process, time.monotonic() + 2 * options.compile_deadline, case)
        wait(list(running), timeout=0.05)
        if time.monotonic() > stop_at:
            for case in waiting:
                case.failure = LATE
            waiting.clear()
        for sentinel, (process, deadline, case) in list(running.items()):
            if process.is_alive() and time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                case.failure = f"the two compiles took longer than {2 * options.compile_deadline:.0f} s"
            elif process.is_alive():
                continue
            process.join()
            del running[sentinel]
            if process.exitcode and case.failure is None:
                case.failure = f"compiler ended with {process.exitcode}"


def measure(case: Case, inputs: Any, reference: torch.Tensor, setup: SimpleNamespace) -> None:
    """Check ours, then time both."""
    op = builtin.operation(case.problem.kernel)
    op.poison(inputs)
    op.launch(inputs, case.config)
    difference = torch.linalg.vector_norm(op.output(inputs).float() - reference)
    case.relative_error = float(difference / torch.linalg.vector_norm(reference))
    if not case.relative_error <= op.tolerance(case.problem):
        case.failure = f"wrong result: relative error {case.relative_error:.2e}"
        return
    binary = op.warmup(case.problem, case.config)
    case.ours_registers = (binary.n_regs, binary.n_spills)
    case.ours_shared_bytes = binary.metadata.shared
    runs: list[Callable[[], None]] = [lambda: op.launch(inputs, case.config)]
    if setup.vllm:
        call = vllm_call(case.problem, case.config, vllm.target_capability(), inputs)
        launch = call.launch()
        binary = call.warmup()
        case.vllm_registers = (binary.n_regs, binary.n_spills)
        case.vllm_shared_bytes = binary.metadata.shared
        runs.append(lambda: launch.run(*launch.arguments))
    op.reset(inputs)
    case.ours_us, *others = map(estimate_us, setup.timer.time_in_turn(runs, setup.repetitions).runtimes_us)
    case.vllm_us = others[0] if others else None


def measure_all(cases: list[Case], options: argparse.Namespace, stop_at: float) -> None:
    """Measure all cases, those of one problem after another with the same inputs, until the deadline."""
    device = torch.device("cuda")
    setup = SimpleNamespace(
        repetitions=options.repetitions,
        timer=ColdTimer(device),
        vllm=options.vllm,
    )
    for problem in dict.fromkeys(case.problem for case in cases):
        op = builtin.operation(problem.kernel)
        inputs = op.make_inputs(problem, seed=options.seed, device=device)
        reference = op.reference(inputs)
        for case in cases:
            if case.problem != problem or case.failure is not None:
                continue
            if time.monotonic() > stop_at:
                case.failure = LATE
                continue
            try:
                measure(case, inputs, reference, setup)
            except (RuntimeError, triton.runtime.errors.OutOfResources) as error:
                case.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"


def resources(binary: Any) -> tuple[int, int]:
    """Read registers and stack bytes of a thread from a cubin."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.findall(r"REG:(\d+) STACK:(\d+)", text)[0]))


def inspect_all(cases: list[Case], options: argparse.Namespace) -> None:
    """Read registers and shared memory of binaries that are in the cache by now."""
    activate(GPUTarget("cuda", options.capability, 32))
    for case in cases:
        if case.failure is None:
            ours, theirs = compile_both(case, options)
            case.ours_registers, case.ours_shared_bytes = resources(ours), ours.metadata.shared
            if theirs is not None:
                case.vllm_registers, case.vllm_shared_bytes = resources(theirs), theirs.metadata.shared


def ratios(cases: list[Case]) -> Iterator[tuple[str, list[float]]]:
    """Yield ours over vLLM's by recording, and of all: times, or registers where nothing was timed."""
    for name in [*sorted({case.recording for case in cases}), "all"]:
        chosen = [case for case in cases if name in (case.recording, "all")]
        timed = [case.ours_us / case.vllm_us for case in chosen if case.ours_us and case.vllm_us]
        registers = [c.ours_registers[0] / c.vllm_registers[0] for c in chosen if c.ours_registers and c.vllm_registers]
        yield name, timed or registers


def report(cases: list[Case], options: argparse.Namespace) -> dict[str, Any]:
    """Gather everything measured, with where and how."""
    sources = [builtin, vllm] if options.vllm else [builtin]
    summary = {
        name: {
            "configs": len(values),
            "median_ratio": statistics.median(values),
            "quartiles": statistics.quantiles(values, n=4) if len(values) > 1 else values,
            "largest_ratio": max(values),
        }
        for name, values in ratios(cases)
        if values
    }
    return {
        "what": "registers per thread, ours / vLLM" if options.offline else "kernel time, ours / vLLM",
        "gpu": None if options.offline else torch.cuda.get_device_name(),
        "versions": {"triton": triton.__version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        "sources": sorted({s.operation(case.problem.kernel).source for case in cases for s in sources}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "timing": f"{options.repetitions} interleaved repetitions each, 256 MB written before each launch",
        "summary": summary,
        "cases": [{**asdict(case), "problem": str(case.problem)} for case in cases],
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", action="store_true", help="time vLLM's kernels too")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--configs", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="compilers at once")
    parser.add_argument("--compile-deadline", type=float, default=8, help="seconds for one compile")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which to stop")
    parser.add_argument("--capability", type=int, default=90, help="compute capability to compile for")
    parser.add_argument("--offline", action="store_true", help="compare binaries only, without a GPU")
    return parser.parse_args()


def main() -> None:
    """Draw, compile, measure, write."""
    options = parse()
    stop_at = time.monotonic() + options.deadline
    os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="kernel_speed."))
    cases = draw_cases(options.configs, options.seed)
    start = time.monotonic()
    compile_all(cases, options, stop_at)
    print(f"compiled {len(cases)} cases in {time.monotonic() - start:.0f} s")
    if options.offline:
        inspect_all(cases, options)
    else:
        measure_all(cases, options, stop_at)
    result = report(cases, options)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["summary"].items():
        low, high = row["quartiles"][0], row["quartiles"][-1]
        print(f"{name:48} {row['configs']:4} {row['median_ratio']:6.3f}  quartiles {low:.3f} … {high:.3f}")
    failures = [case for case in cases if case.failure]
    print(f"{len(failures)} without a figure: {sorted({case.failure or '' for case in failures})}")


if __name__ == "__main__":
    main()
