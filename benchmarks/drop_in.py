"""Eleven kernels (``field.py``) tuned by bo_tune, against ``triton.autotune`` over the very same configs.

    python benchmarks/drop_in.py --out drop-in.json --seconds 460 --only softmax,matmul,tma_matmul,persistent_matmul
    python benchmarks/drop_in.py --out drop-in.json --seconds 460 --only attention,split_k,layer_norm_backward,adam
    python benchmarks/drop_in.py --out drop-in.json --seconds 460 --only grouped_gemm,cross_entropy,state_update

One GPU. For each kernel, in this order: bo_tune searches with an empty Triton cache, and compiles what it tries. Then
the other configs are compiled into the same cache, on all cores. Then autotune runs in a process of its own, and finds
all of them there. By itself it compiles them one by one: ``autotune_cold_wall_s`` adds the core seconds that compiling
took, and is reckoned, not measured. Then both choices, and the default, are timed in turn. Then the choice is frozen,
and two processes start at once, read it, and launch; neither is to load the search, or to measure.

GPU seconds are those in which one was at work or held: of bo_tune its GPU process's without its start, of autotune
those in ``do_bench``.

A kernel that the seconds do not suffice for is left out and said to be. The file is rewritten after each kernel; what
it has of others stays, so several calls fill one file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import autotuned
from own_kernels import empty_cache

import bo_tune
from bo_tune.core.outcome import Invalid, estimate_us
from bo_tune.core.problem import SizedProblem
from bo_tune.errors import BoTuneError
from bo_tune.kernels.user.definition import Definition
from bo_tune.measure.device import Compiled
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.processes.importing import import_source

FIELD = str(Path(__file__).resolve().with_name("field.py"))
ROUNDS = 100
"""Of the last measurement, of all choices in turn."""

SHORTEST_S = 45.0
"""What is not begun with less than this left."""

MEASURED_WHOLE = 40
"""Fewer configs than these are all measured."""

WITHIN = 1.01
"""How much slower than autotune's choice is as good."""

SHARE = 0.2
"""The most that is wanted of autotune's configs and seconds."""

HEAVY = ("optuna", "sqlalchemy", "scipy")


def searched(
    device: GpuDevice, kernel: Definition, sizes: Mapping[str, Any], *, whole: bool
) -> tuple[Any, dict[str, Any]]:
    """Tune a kernel with bo_tune; return what came of it, and its figures."""
    start = time.perf_counter()
    (best,) = bo_tune.tune(kernel, [sizes], device=device, **({"budget": None, "stop": False} if whole else {}))
    wall_s = time.perf_counter() - start
    seconds = dict(device.activity.gpu.seconds) if device.activity.gpu is not None else {}
    figures = {
        "config": dict(best.config),
        "wall_s": round(wall_s, 2),
        "gpu_s": round(sum(spent for name, spent in seconds.items() if name != "start"), 2),
        "gpu_seconds": {name: round(spent, 2) for name, spent in seconds.items()},
        "launched": best.launched_configs,
        "launches": best.launches,
        "compiles": best.compiles,
        "compile_core_s": round(best.compile_s, 2),
        "probability": None if best.certificate is None else best.certificate.probability,
    }
    return best, figures


def compiled(device: GpuDevice, problem: SizedProblem, kernel: Definition, deadline: float) -> dict[str, Any]:
    """Compile every config, on all cores."""
    start = time.perf_counter()
    every = [kernel.encode(params, "here") for params in autotuned.configs_of(kernel, problem, {})]
    futures = [device.compile(problem, config) for config in every]
    done, late = wait(futures, timeout=max(1.0, deadline - time.perf_counter()))
    builds = [future.result() for future in done]
    core_s = sum(build.compilation.compile_s for build in builds if isinstance(build, Compiled))
    refused = sum(isinstance(build, Invalid) for build in builds)
    return {
        "configs": len(every),
        "late": len(late),
        "refused": refused,
        "wall_s": round(time.perf_counter() - start, 2),
        "core_s": round(core_s, 2),
    }


def by_triton(kernel: Definition, sizes: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Tune a kernel with ``triton.autotune``, in the Triton cache of this process's environment."""
    request = {"example": FIELD, "kernel": kernel.name, "problems": [sizes], "space": {}, "seconds": seconds}
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(request))
        command = [sys.executable, str(Path(FIELD).with_name("autotuned.py")), str(asked), str(answer)]
        start = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
            note = last_line(done.stderr) if done.returncode else ""
        except subprocess.TimeoutExpired:
            note = "killed: it took longer than what was left"
        found = json.loads(answer.read_text()) if answer.exists() else [{}]
    return {**found[0], "process_s": round(time.perf_counter() - start, 2), "note": note}


def last_line(text: str) -> str:
    """Return the last line that a process has written."""
    return (text.strip().splitlines() or ["nothing"])[-1]


def in_turn(
    device: GpuDevice, problem: SizedProblem, kernel: Definition, choices: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | None]:
    """Time configs in turn; returns us by name, None for what cannot run."""
    encoded = {name: kernel.encode(params, name) for name, params in choices.items()}
    builds = {name: device.compile(problem, config).result() for name, config in encoded.items()}
    runs = {name: config for name, config in encoded.items() if not isinstance(builds[name], Invalid)}
    times = device.remeasure(problem, list(runs.values()), ROUNDS).runtimes_us
    taken = {name: round(estimate_us(runtimes), 3) for name, runtimes in zip(runs, times, strict=True) if runtimes}
    return {name: taken.get(name) for name in encoded}


def started(name: str, table: Path) -> dict[str, Any]:
    """Start two processes at once that read the winner and launch it."""
    command = [sys.executable, __file__, "--start", name, "--table", str(table)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    if any(process.returncode for process in both):
        return {"note": last_line(told[0][1])}
    first, second = (json.loads(out) for out, _ in told)
    return {"first": first, "second": second, "same": first["config"] == second["config"]}


def start(name: str, table: Path, begun: float) -> None:
    """Do what a process does that uses a kernel: read its winner, launch it, and say how long that took."""
    import torch  # noqa: PLC0415 - its time is part of what is told

    from bo_tune.kernels.user.operation import operation_of  # noqa: PLC0415

    kernel, sizes = import_source(FIELD).CASES[name]
    problem = SizedProblem(kernel.name, tuple(sizes.items()))
    operation = operation_of(kernel, Path(FIELD))
    inputs = operation.make_inputs(problem, seed=0, device=torch.device("cuda"))
    torch.cuda.synchronize()
    ready = time.perf_counter()
    config = bo_tune.best(kernel, sizes, table, on_miss="error")
    looked_up = time.perf_counter()
    operation.launch(inputs, kernel.encode(config, "here"))
    torch.cuda.synchronize()
    ended = time.perf_counter()
    said = {
        "config": config,
        "imports_and_inputs_s": round(ready - begun, 3),
        "look_up_ms": round((looked_up - ready) * 1e3, 3),
        "first_launch_ms": round((ended - looked_up) * 1e3, 3),
        "loaded": sorted(set(HEAVY) & set(sys.modules)),
    }
    print(json.dumps(said))


def one(name: str, deadline: float) -> dict[str, Any]:
    """Return the figures of a kernel."""
    kernel, sizes = import_source(FIELD).CASES[name]
    problem = SizedProblem(kernel.name, tuple(sizes.items()))
    grid = len(autotuned.configs_of(kernel, problem, {}))
    figures: dict[str, Any] = {"problem": sizes, "configs": grid, "whole": grid < MEASURED_WHOLE}
    with empty_cache(), tempfile.TemporaryDirectory() as folder:
        device = GpuDevice(0, source=FIELD)
        try:
            best, figures["bo_tune"] = searched(device, kernel, sizes, whole=grid < MEASURED_WHOLE)
            figures["gpu"] = best.gpu
            figures["compiling_ahead"] = compiled(device, problem, kernel, deadline - 30)
            left_s = deadline - 25 - time.perf_counter()
            figures["autotune"] = theirs = by_triton(kernel, sizes, max(5.0, left_s))
            choices = {"default": kernel.default_params(problem), "bo_tune": best.config}
            if theirs.get("launched"):
                choices["autotune"] = theirs["config"]
            figures["in_turn_us"] = in_turn(device, problem, kernel, choices)
        finally:
            device.close()
        table = Path(folder, "winners.tuned.json")
        bo_tune.freeze([best], table)
        figures["starts"] = started(name, table)
    return {**figures, **verdict(figures)}


def verdict(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Say how a kernel's figures stand beside what is wanted."""
    ours, theirs, times = figures["bo_tune"], figures["autotune"], figures["in_turn_us"]
    if not theirs.get("launched") or not times.get("autotune") or not times.get("bo_tune"):
        return {"verdict": "nothing to compare with"}
    slower = times["bo_tune"] / times["autotune"]
    one_by_one_s = figures["compiling_ahead"]["core_s"] + ours["compile_core_s"]
    found: dict[str, Any] = {
        "slower": round(slower - 1, 4),
        "share_of_configs": round(ours["launched"] / theirs["launched"], 3),
        "share_of_gpu_s": round(ours["gpu_s"] / theirs["gpu_s"], 3),
        "autotune_cold_wall_s": round(theirs["wall_s"] + one_by_one_s, 1),
    }
    wanted = {"as good": slower <= WITHIN}
    if not figures["whole"]:
        wanted["fewer configs"] = found["share_of_configs"] <= SHARE
        wanted["fewer seconds"] = found["share_of_gpu_s"] <= SHARE
    missed = [name for name, is_met in wanted.items() if not is_met]
    if theirs.get("left_out"):
        missed.append(f"autotune was cut off: {theirs['left_out']} left out")
    return {**found, "verdict": "met" if not missed else f"missed: {', '.join(missed)}"}


def summary(cases: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the figures in lines."""
    for name, case in cases.items():
        if "bo_tune" not in case:
            yield f"{name}: {case.get('note', 'nothing')}"
            continue
        ours, theirs, times = case["bo_tune"], case["autotune"], case["in_turn_us"]
        yield f"{name} ({case['configs']} configs{', all measured' if case['whole'] else ''}): {case['verdict']}"
        yield (
            f"  bo_tune: {times.get('bo_tune')} us, {ours['launched']} configs, {ours['launches']} launches, "
            f"{ours['gpu_s']} GPU s, {ours['wall_s']} s with compiling: {ours['config']}"
        )
        yield (
            f"  autotune: {times.get('autotune')} us, {theirs.get('launched')} configs, {theirs.get('launches')} "
            f"launches, {theirs.get('gpu_s')} GPU s, {theirs.get('wall_s')} s all compiled before "
            f"({case.get('autotune_cold_wall_s')} s if compiled one by one): {theirs.get('config')} "
            f"{theirs.get('note')}"
        )
        yield f"  default: {times.get('default')} us"
        starts = case["starts"]
        if "first" in starts:
            first = starts["first"]
            yield (
                f"  next start: look-up {first['look_up_ms']} ms, first launch {first['first_launch_ms']} ms, after "
                f"{first['imports_and_inputs_s']} s of imports and inputs; both processes the same: {starts['same']}; "
                f"loaded of the search: {first['loaded'] or 'nothing'}"
            )
        else:
            yield f"  next start: {starts['note']}"


def main() -> None:
    """Run the kernels asked for, write figures as they come, print them last."""
    begun = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=460.0)
    parser.add_argument("--only", help="kernels, by commas; by default all")
    parser.add_argument("--start", metavar="KERNEL", help="be the process that starts with a table")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    if arguments.start:
        start(arguments.start, arguments.table, begun)
        return
    names = list(import_source(FIELD).CASES)
    chosen = arguments.only.split(",") if arguments.only else names
    if not arguments.out or any(name not in names for name in chosen):
        parser.error(f"--out FILE, and --only some of {', '.join(names)}")
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"kernels": {}}
    cases, now = document["kernels"], {}
    for number, name in enumerate(chosen):
        left_s = arguments.seconds - (time.perf_counter() - begun)
        share_s = left_s / (len(chosen) - number) * 1.5 if number < len(chosen) - 1 else left_s
        deadline = time.perf_counter() + min(left_s, share_s)
        try:
            if left_s < SHORTEST_S:
                raise BoTuneError("not begun: too little time was left")
            now[name] = one(name, deadline)
        except (BoTuneError, OSError, subprocess.SubprocessError) as error:
            now[name] = {"note": f"{type(error).__name__}: {error}"}
        cases[name] = now[name]
        document["cores"] = os.cpu_count()
        arguments.out.write_text(json.dumps(document, indent=1, default=str))
        print(f"{name}: {now[name].get('verdict', now[name].get('note'))}", file=sys.stderr, flush=True)
    for line in summary(now):
        print(line)


if __name__ == "__main__":
    main()
