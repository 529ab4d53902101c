"""The base model's experts tuned on a GPU, against what vLLM ships for them and what it runs without a file.

    python benchmarks/vllm_standins.py WHEELS/vllm-0.33.0-*.whl .vllm
    python benchmarks/experts.py --out DIR [--parts tune,compare,needle,history,grid] [--deadline 530]

Needs a GPU, and vLLM's modules in ``.vllm`` (``vllm_standins.py``). Nothing runs past the deadline; what is known by
then is written. The parts:

- ``tune``: each model's 18 numbers of tokens by ``bo-tune tune``, from nothing, timed from the command's start to its
  JSON.
- ``compare``: the tuned configs, the shipped ones and the engine's rule, timed in turn by several GPU processes one
  after the other, for where a process has its code and data counts for a little.
- ``needle``: Mixtral at 1024 and 4096 tokens, where one config in hundreds is within 5 % of the best, from nothing,
  with the file withheld that vLLM ships for it. Each search has compilers and a cache of its own: what was compiled
  costs less, so the binaries of another search would tell this one where to look.
- ``history``: the same after the other model, whose database ``tune`` left in ``--work``, with half the budget.
- ``grid``: exhaustive studies over ``--space``, recorded.

A later call of other parts finds what ``tune`` left: databases and binaries in ``--work``, tuned files in ``--out`` or
``--tuned``.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bo_tune.core.choices import MEMORY
from bo_tune.core.outcome import estimate_us
from bo_tune.core.problem import Problem
from bo_tune.core.space import config_key
from bo_tune.engines.folder import flat_configs, read_folder
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.registry import address_of
from bo_tune.engines.vllm.experts import VllmExperts
from bo_tune.kernels.experts.step import KERNEL, ExpertsStep
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.device import Compiled
from bo_tune.measure.devices import job_of
from bo_tune.measure.gpu.device import GpuDevice
from bo_tune.measure.source import VLLM
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore
from bo_tune.store.trials import time_us

ROOT = Path(__file__).parents[1]
SHIPPED = "vllm/model_executor/layers/fused_moe/configs"
MS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
MODELS = {
    "mixtral": ("mixtral-8x7b", 2, None),
    "qwen": ("qwen3-30b-a3b", 1, None),
    "qwen-fp8": (
        "qwen3-30b-a3b",
        1,
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    ),
}
"""Model, tensor-parallel size and how the checkpoint is quantised, where the model's config does not say it."""

NEEDLES = (1024, 4096)
TAUGHT_BY = "qwen"
ROUNDS, PROCESSES = 60, 3
WITHIN = 1.05
THINNED = "BLOCK_SIZE_N=64,128,256 BLOCK_SIZE_K=64,128 GROUP_SIZE_M=1,16 num_stages=3,4"
TO_END_S = 12.0
"""What an interrupted command gets to end in."""

LAST_SEARCH_S = 100.0
"""What a search that is begun and the timing of what was found may take."""

RESERVED_S = {"compare": 140.0, "needle": 0.0, "history": 0.0, "grid": 0.0, "tune": 0.0}
"""What is kept of the time for parts that follow."""


def config_of(name: str, work: Path) -> Path:
    """Return the folder of a model's config, with what is said of its checkpoint."""
    model, _, quantization = MODELS[name]
    folder = ROOT / "studies" / "models" / model
    if quantization is None:
        return folder
    config = json.loads((folder / "config.json").read_text())
    written = work / name / "config.json"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps({**config, "quantization_config": quantization}))
    return written.parent


def problems_of(name: str, work: Path, ms: Sequence[int]) -> dict[int, Problem]:
    """Return what an engine of a model looks up of its experts, by the number of tokens."""
    model = ModelStudy.of(
        str(config_of(name, work)), tensor_parallel=MODELS[name][1], ranks=[16], max_loras=[4], ms=list(ms)
    )
    return {ExpertsStep.of(problem).m: problem for problem in VllmExperts().problems(model)}


def written(path: Path, content: Any) -> None:
    """Write figures as they stand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def head(device: GpuDevice) -> dict[str, Any]:
    """Return what every file of figures begins with."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    command = "python " + shlex.join(sys.argv)
    return {"command": command, "date": date, "gpu": device.gpu.name, **device.provenance}


def in_turn(
    device: GpuDevice,
    configs: Mapping[Problem, Sequence[Mapping[str, int]]],
    processes: int,
    path: Path,
    ends_at: float,
) -> dict[Problem, list[list[float]]]:
    """Time the configs of each problem in turn, in one GPU process after another. Returns us by process and config."""
    builds = [device.compile(problem, dict(config)) for problem, some in configs.items() for config in some]
    failed = [build.result() for build in builds if not isinstance(build.result(), Compiled)]
    if failed:
        print(f"{len(failed)} configs do not compile, the first: {failed[0]}", file=sys.stderr)
    times: dict[Problem, list[list[float]]] = {problem: [] for problem in configs}
    for process in range(processes):
        if process:
            device.restart_gpu_process()
        for problem, some in configs.items():
            if time.time() > ends_at:
                return times
            found = device.remeasure(problem, [dict(config) for config in some], ROUNDS).runtimes_us
            times[problem].append([estimate_us(one) if one else float("nan") for one in found])
        print(f"{path.stem}: process {process + 1} of {processes} done", flush=True)
    return times


def compare(options: argparse.Namespace, ends_at: float) -> None:
    """Time tuned configs, shipped ones and the engine's rule."""
    device = GpuDevice(source=VLLM)
    tuned = [flat_configs(read_folder(folder)) for folder in _tuned(options) if folder.is_dir()]
    spec, asked, rows = kernel_spec(KERNEL), {}, []
    for name in options.models:
        for m, problem in problems_of(name, options.work, options.ms).items():
            address = address_of(problem, device.gpu)
            chosen = next((folder[address] for folder in tuned if address in folder), None)
            if chosen is None:
                continue
            ships = any((Path(folder) / SHIPPED / address.file_name).is_file() for folder in sys.path)
            three = [chosen, device.default_config(spec, problem), *spec.rivals(problem)][:3]
            three = [{key: int(value) for key, value in one.items() if value is not None} for one in three]
            asked[problem] = three
            rows.append({"model": name, "m": m, "shipped": ships, "tuned": three[0], "untuned": three[1]})
    path = options.out / "compare.json"
    times = in_turn(device, asked, options.processes, path, ends_at)
    for row, found in zip(rows, times.values(), strict=True):
        us = np.array(found)
        if len(us):
            row |= dict(zip(("tuned_us", "untuned_us", "rule_us"), np.round(np.median(us, 0), 2).tolist(), strict=True))
            best = us[:, 1:].min(1)
            row["against_better_percent"] = round(float(np.median(100 * (us[:, 0] / best - 1))), 2)
            row["by_process_percent"] = np.round(100 * (us[:, 0] / best - 1), 2).tolist()
    written(path, {**head(device), "rounds": ROUNDS, "processes": options.processes, "rows": rows})
    device.close()
    for row in rows:
        if "tuned_us" in row:
            what = "shipped" if row["shipped"] else "rule"
            print(
                f"{row['model']:10} m {row['m']:5}: tuned {row['tuned_us']:9.1f} us, {what} {row['untuned_us']:9.1f}, "
                f"rule {row['rule_us']:9.1f}; against the better {row['against_better_percent']:+6.2f} % "
                f"{row['by_process_percent']}"
            )


def _tuned(options: argparse.Namespace) -> list[Path]:
    return [*(options.out / name / "tuned" for name in options.models), *options.tuned]


def searched(problem: Problem, seed: int, budget: int, history: StudyStore | None, compilers: int) -> dict[str, Any]:
    """Search one problem from nothing, or after the studies of a database."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        device = GpuDevice(source=VLLM)
        settings = SessionSettings(
            budget=budget, seed=seed, bundled=False, compilers=compilers or device.compile_workers
        )
        (one,) = Session(StudyStore(MEMORY), settings, history=history).run([job_of(problem, device)])
        device.close()
    return {
        "m": ExpertsStep.of(problem).m,
        "seed": seed,
        "wall_s": round(time.monotonic() - start, 1),
        "config": one.result.config if one.result else None,
        "trials_us": [time_us(trial) for trial in one.trials],
        "trials": [dict(trial.params) for trial in one.trials],
    }


def needle(options: argparse.Namespace, ends_at: float, *, taught: bool) -> None:
    """Search where good configs are rare, and time what was found beside what vLLM ships."""
    problems = problems_of("mixtral", options.work, NEEDLES)
    database = options.work / f"{TAUGHT_BY}.db"
    if taught and not database.is_file():
        sys.exit(f"{database}: not there; run the part tune first")
    history = StudyStore(f"sqlite:///{database}") if taught else None
    budget = options.budget // 2 if taught else options.budget
    usual_cache = os.environ["TRITON_CACHE_DIR"]
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for m, problem in problems.items():
            if time.time() > ends_at - LAST_SEARCH_S:
                break
            rows.append(searched(problem, seed, budget, history, options.compilers))
            print(f"seed {seed}, m {m}: {rows[-1]['config']} in {rows[-1]['wall_s']} s", flush=True)
    os.environ["TRITON_CACHE_DIR"] = usual_cache
    device = GpuDevice(source=VLLM)
    path = options.out / f"{'history' if taught else 'needle'}.json"
    document: dict[str, Any] = {
        **head(device),
        "budget": budget,
        "taught_by": TAUGHT_BY if taught else None,
        "rows": rows,
    }
    written(path, document)
    file = options.vllm / SHIPPED / address_of(problems[NEEDLES[0]], device.gpu).file_name
    shipped = json.loads(file.read_text()) if file.is_file() else {}
    configs: dict[Problem, list[dict[str, int]]] = {}
    tuned = [flat_configs(read_folder(folder)) for folder in _tuned(options) if folder.is_dir()]
    for m, problem in problems.items():
        every = [row["config"] for row in rows if row["m"] == m and row["config"]]
        every += [shipped[str(m)]] if str(m) in shipped else []
        address = address_of(problem, device.gpu)
        every += [folder[address] for folder in tuned if address in folder]
        configs[problem] = list({config_key(one): one for one in every}.values())
    times = in_turn(device, configs, options.processes, path, ends_at + 20)
    for m, problem in problems.items():
        if not times[problem]:
            continue
        us = dict(zip(map(config_key, configs[problem]), np.median(times[problem], 0).tolist(), strict=True))
        best = min(us.values())
        for row in rows:
            if row["m"] == m and row["config"]:
                row["us"] = round(us[config_key(row["config"])], 2)
                row["over_best_known"] = round(row["us"] / best, 4)
                print(f"seed {row['seed']}, m {m}: {row['us']} us, {100 * (row['us'] / best - 1):+.2f} % over the best")
        if str(m) in shipped:
            document[f"shipped_us at {m}"] = us[config_key(shipped[str(m)])]
            print(f"m {m}: shipped {us[config_key(shipped[str(m)])]:.1f} us, best known {best:.1f}")
    document["found"] = sum(row.get("over_best_known", 9) <= WITHIN for row in rows)
    written(path, document)
    device.close()


class Steps:
    """Runs one process after the other until the deadline."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._start = options, time.time()
        self.times: dict[str, Any] = {}

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self._start + float(self._options.deadline) - time.time()

    def run(self, name: str, command: Sequence[str], path: Sequence[Path], cache: str, most_s: float) -> bool:
        """Run a command, keep what it prints, say how it went. Returns whether it ended by itself and well."""
        options, start = self._options, time.monotonic()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path, *filter(None, [os.environ.get("PYTHONPATH")])])),
            "TRITON_CACHE_DIR": str((options.work / f"cache-{cache}").resolve()),
            "COLUMNS": "160",
        }
        log = options.out / f"{name}.log"
        print(f"{name}: {shlex.join(command)}", flush=True)
        with log.open("w") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
            try:
                code: int | None = process.wait(max(1.0, min(most_s, self.left_s - TO_END_S)))
            except subprocess.TimeoutExpired:
                code = None
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(TO_END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
        wall_s = round(time.monotonic() - start, 1)
        self.times[name] = {"wall_s": wall_s, "exit": code}
        written(options.out / "steps.json", self.times)
        tail = log.read_text(errors="replace").splitlines()[-24:]
        print("\n".join(tail), f"\n{name}: {wall_s} s, exit {'interrupted' if code is None else code}", flush=True)
        return code == 0


def tune(options: argparse.Namespace, steps: Steps, reserved_s: float) -> None:
    """Tune each model from nothing, timed."""
    for name in options.models:
        for suffix in ("", "-wal", "-shm"):
            (options.work / f"{name}.db{suffix}").unlink(missing_ok=True)
        shutil.rmtree(options.work / f"cache-{name}", ignore_errors=True)
        storage, out = f"sqlite:///{options.work.resolve() / name}.db", options.out.resolve() / name
        command = [
            *(sys.executable, "-m", "bo_tune", "tune", "--model", str(config_of(name, options.work))),
            *("--tp", str(MODELS[name][1]), "--max-loras", "4", "--rank", "16", "--only", "experts"),
            *("--m", ",".join(map(str, options.ms)), "--kernels", "vllm", "--storage", storage),
            *("--out", str(out / "tuned"), "--json", str(out / "tune.json"), *options.more),
        ]
        done = steps.run(f"tune-{name}", command, [options.vllm], name, steps.left_s - reserved_s)
        if not done:  # what was done until then is worth comparing
            write = [sys.executable, "-m", "bo_tune", "write", "--storage", storage, "--out", str(out / "tuned")]
            steps.run(f"write-{name}", write, [options.vllm], name, 30.0)


def grid(options: argparse.Namespace, steps: Steps) -> None:
    """Search a thinned grid exhaustively and record it; a later call goes on with it."""
    ranges = {name: [*map(int, values.split(","))] for name, values in (r.split("=") for r in options.space.split())}
    lines = [f"{name} = {values}" for name, values in ranges.items()]
    name = options.models[0]
    study = options.work / "grid.toml"
    model = f'[model]\nconfig = "{config_of(name, options.work).resolve()}"\ntensor_parallel = {MODELS[name][1]}\n'
    ms = list(options.grid_ms)
    head_lines = f'name = "experts-grid"\nkernels = ["{KERNEL}"]\n'
    study.write_text(f"{head_lines}\n{model}max_loras = [4]\nm = {ms}\n\n[space.{KERNEL}]\n" + "\n".join(lines) + "\n")
    command = [
        *(sys.executable, "-m", "bo_tune", "grid", str(study), "--kernels", "vllm"),
        *("--storage", f"sqlite:///{options.work.resolve()}/grid.db", "--out", str(options.out.resolve() / "grid")),
        *("--record", str(options.out.resolve() / "recordings"), "--json", str(options.out.resolve() / "grid.json")),
    ]
    steps.run("grid", command, [options.vllm], name, steps.left_s)


def withheld(options: argparse.Namespace) -> Path:
    """Return a copy of vLLM's modules without the files that it ships for Mixtral's experts at this size."""
    copy: Path = options.work / "vllm-withheld"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(options.vllm, copy)
    step = ExpertsStep.of(problems_of("mixtral", options.work, (1,))[1])
    for file in (copy / SHIPPED).glob(f"E={step.experts.local},N={step.n},*"):
        file.unlink()
    return copy.resolve()


def parsed() -> argparse.Namespace:
    """Read the command line."""

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of figures")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "experts", help="databases and binaries, kept")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["tune", "compare"])
    parser.add_argument("--models", type=lambda text: text.split(","), default=["mixtral", "qwen"])
    parser.add_argument("--ms", type=numbers, default=list(MS), help="tokens in a step, to tune and to compare")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".vllm")
    parser.add_argument("--tuned", type=Path, nargs="*", default=[], help="more tuned folders to compare")
    parser.add_argument("--deadline", type=float, default=530.0, help="seconds for everything")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="GPU processes that re-measure")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--budget", type=int, default=40, help="of the needle; half of it with history")
    parser.add_argument("--compilers", type=int, default=0, help="of the needle: decides on how many are under way")
    parser.add_argument("--space", default=THINNED, help="ranges of the grid's parameters, those that are not whole")
    parser.add_argument("--grid-ms", type=numbers, default=[1024], help="tokens in a step of the grid, first model")
    parser.add_argument("--more", type=shlex.split, default=[], help="further options of bo-tune tune")
    parser.add_argument("--child", choices=["compare", "needle", "history"], help=argparse.SUPPRESS)
    parser.add_argument("--ends-at", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the parts that are asked for."""
    options = parsed()
    if options.child == "compare":
        compare(options, options.ends_at)
        return
    if options.child:
        needle(options, options.ends_at, taught=options.child == "history")
        return
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    options.vllm = options.vllm.resolve()
    steps = Steps(options)
    for place, part in enumerate(options.parts):
        after_s = sum(RESERVED_S[other] for other in options.parts[place + 1 :])
        if part == "tune":
            tune(options, steps, after_s)
        elif part == "grid":
            grid(options, steps)
        else:
            limit_s = steps.left_s - after_s
            more = ["--child", part, "--ends-at", str(time.time() + limit_s - 30)]
            path: Path = options.vllm
            if part != "compare":
                path = withheld(options)
            command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], *more]
            steps.run(part, command, [path], "mixtral" if part != "compare" else "compare", limit_s)
    print(json.dumps(steps.times))


if __name__ == "__main__":
    main()
