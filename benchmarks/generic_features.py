"""Whether what a binary uses would help to search a kernel of which nothing is told: regret with an oracle and without.

``python benchmarks/generic_features.py --seeds 6`` searches the recorded grids of a folder without history, and needs
no GPU. Configs are described as those of a user's kernel are: by their parameters, and by tile sizes. The oracle adds
shared memory, registers and spilled registers of every config's binary, compiled or not. A real search would have to
compile a config to learn them, so the oracle's lead is the most that they could give.
"""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from described import described_by
from numpy.typing import NDArray
from samplers import ORACLES, VARIANTS, regrets, run
from scipy.stats import wilcoxon

from bo_tune.analysis.simulate import Run
from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config
from bo_tune.formats.recording import read_recordings
from bo_tune.kernels.spec import AnySpec

SIDES = ("block_m", "block_n", "block_k")
PLAIN, ORACLE = VARIANTS[0], ORACLES[0]
AT = ("10", "20", "40")


def generic(_: AnySpec, configs: Sequence[Config], _problem: LoraProblem, _gpu: GpuInfo) -> NDArray[np.float64]:
    """Describe configs by what a user's kernel would tell: ``[configs, features]``."""
    names = sorted(configs[0])
    logs = np.log2(np.array([[config[name] for name in names] for config in configs], dtype=float))
    of = {name: logs[:, place] for place, name in enumerate(names)}
    tile = sum(of[side] for side in SIDES)
    return np.column_stack([logs, tile, tile - of["num_warps"], tile + of["num_stages"]])


def searched(seed: int, folder: Path) -> tuple[list[Run], list[Run]]:
    """Search every recording with a seed, without the oracle and with it."""
    with described_by(generic, read_recordings(folder)):
        one, other = (run(variant, folder, int(AT[-1]), {}, seed) for variant in (PLAIN, ORACLE))
    return one, other


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=Path("studies/recordings"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        pairs = list(pool.map(partial(searched, folder=options.recordings), range(options.seeds)))
    plain, oracle = ([one for pair in pairs for one in pair[side]] for side in (0, 1))
    print("| launched | regret, % | with the oracle | difference | p |\n|---:|---:|---:|---:|---:|")
    for at in AT:
        one, other = regrets(plain, at), regrets(oracle, at)
        apart = np.array([other[key] - one[key] for key in one])
        p = wilcoxon(apart).pvalue if apart.any() else 1.0
        error = apart.std() / len(apart) ** 0.5
        means = f"{np.mean(list(one.values())):.2f} | {np.mean(list(other.values())):.2f}"
        print(f"| {at} | {means} | {apart.mean():+.2f} ± {error:.2f} | {p:.2g} |")


if __name__ == "__main__":
    main()
