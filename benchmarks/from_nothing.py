"""What is chosen of a recorded grid before anything is measured, and from its first ten configs.

``python benchmarks/from_nothing.py studies/recordings studies/recordings/h200`` needs no GPU, and
``pip install nvidia-matmul-heuristics``. Each recording is asked about by four:

- the prior: what the grids that come with the package teach, never that of the very problem, in the order of its mean;
- nvMatmulHeuristics: NVIDIA's analytic model for Triton's matrix products, which is told one product of the problem's
  m, n and k. Its configs are rounded to the grid's nearest, and repeats are left out;
- vLLM's default config;
- random draws, as the mean of 2,000.

A config that cannot run leaves the default in its place. Regret is over the best of the grid.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import nvMatmulHeuristics as heuristics  # noqa: N813 - the package's own spelling

from bo_tune.core.choices import MEMORY
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, config_key
from bo_tune.formats.recording import Recording, read_recordings
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.devices import replay_job
from bo_tune.precompile.experience import recorded_name
from bo_tune.processes.threads import one_blas_thread
from bo_tune.search.gp.model import GridModel
from bo_tune.search.grid import Grid
from bo_tune.store.storage import StudyStore
from bo_tune.tuning.candidates import candidates
from bo_tune.tuning.history import Histories

FIRST = 10
DRAWS = 2_000
ASKED = 64
"""Configs that the analytic model is asked for, so that ten are left after rounding."""

GPUS = {
    "NVIDIA H100 80GB HBM3": heuristics.NvMatmulHeuristicsNvidiaGpu.H100_SXM,
    "NVIDIA H200": heuristics.NvMatmulHeuristicsNvidiaGpu.H200_SXM,
}


def by_prior(recording: Recording) -> list[Config]:
    """Return a grid's configs that can run, most promising first by what other grids teach."""
    spec, problem, gpu = kernel_spec(recording.problem.kernel), recording.problem, recording.gpu
    found = candidates(spec, problem, recording.space, replay_job(recording).device, exhaustive=False)
    prior = Histories(StudyStore(MEMORY), bundled=True).prior(recorded_name(recording), gpu)
    grid = Grid(dict(recording.space.ranges), found.mask)
    model = GridModel(grid, features=lambda configs: spec.features(configs, problem, gpu), prior=prior, minimise=True)
    shared = model.points(()).shared
    assert shared is not None, f"nothing teaches {recording.path}"
    able = np.flatnonzero(found.mask)
    return [grid[int(index)] for index in able[np.argsort(shared.mean[able])][:FIRST]]


def by_analysis(recording: Recording) -> list[Config]:
    """Return a grid's configs that are nearest to those of the analytic model, in its order."""
    problem = recording.problem
    assert isinstance(problem, LoraProblem)
    target, flags = heuristics.NvMatmulHeuristicsTarget, heuristics.NvMatmulHeuristicsFlags
    asked = heuristics.NvMatmulHeuristicsInterfaceEx(
        backend=target.TRITON, flags=flags.PERF_MODEL_BASED_AUTO_TUNING, gpu=GPUS[recording.gpu.name]
    )
    layout = heuristics.NvMatmulHeuristicsMatmulLayout.TN_ROW_MAJOR
    told = asked.get_with_mnk(problem.m, problem.n, problem.k, layout, ASKED)
    told.sort(key=lambda one: one["runtime"])
    found = [_nearest(recording, _triton_config(one["kernel"])) for one in told]
    return list({config_key(config): config for config in found}.values())[:FIRST]


def _triton_config(kernel: Any) -> dict[str, int]:
    warps = (kernel.cta_tile_m // kernel.warp_tile_m) * (kernel.cta_tile_n // kernel.warp_tile_n)
    return {
        "block_m": kernel.cta_tile_m,
        "block_n": kernel.cta_tile_n,
        "block_k": kernel.cta_tile_k,
        "num_warps": warps,
        "num_stages": kernel.stages,
        "split_k": kernel.split_k,
        "num_ctas": 1,
    }


def _nearest(recording: Recording, config: Config) -> Config:
    near = {}
    for name, values in recording.space.ranges.items():
        near[name] = min(values, key=lambda value: abs(np.log2(value / max(config[name], 1))))
    return near


def times_us(recording: Recording, configs: Sequence[Config]) -> list[float]:
    """Return the recorded time of each config, in us: the default's, where it cannot run."""
    instead = default_us(recording)
    return [time if (time := recording.time_us(config)) is not None else instead for config in configs]


def default_us(recording: Recording) -> float:
    """Return the time of the default config, in us."""
    found = recording.time_us(recording.default_config)
    assert found is not None, f"{recording.path} does not tell the default's time"
    return found


def regrets(recording: Recording) -> dict[str, tuple[float, float]]:
    """Return the regret of each that is asked, in percent: of its first config, and of the best of its first ten."""
    every = np.array(times_us(recording, recording.configs()))
    drawn = every[np.random.default_rng(0).integers(len(every), size=(DRAWS, FIRST))]
    said: Mapping[str, list[float]] = {
        "prior": times_us(recording, by_prior(recording)),
        "nvMatmulHeuristics": times_us(recording, by_analysis(recording)),
        "default": [default_us(recording)],
    }
    found = {who: (times[0], min(times)) for who, times in said.items()}
    found["random"] = float(drawn[:, 0].mean()), float(drawn.min(axis=1).mean())
    best = recording.best_time_us
    return {who: (100 * (first / best - 1), 100 * (of_ten / best - 1)) for who, (first, of_ten) in found.items()}


def main() -> None:
    """Ask about every recording, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    recordings = [one for folder in parser.parse_args().folders for one in read_recordings(folder)]
    with one_blas_thread():
        found = {recording.path.name: regrets(recording) for recording in recordings}
    who = list(next(iter(found.values())))
    print(f"| recording | {' | '.join(who)} |\n|---|{'---|' * len(who)}")
    for name, rows in found.items():
        cells = " | ".join(f"{first:.1f} / {of_ten:.1f}" for first, of_ten in rows.values())
        print(f"| {name.removesuffix('.t4.json.gz')} | {cells} |")
    means = np.mean([list(rows.values()) for rows in found.values()], axis=0)
    print(f"| **mean** | {' | '.join(f'**{first:.1f} / {of_ten:.1f}**' for first, of_ten in means)} |")


if __name__ == "__main__":
    main()
