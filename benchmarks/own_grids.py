"""How near a search of a user's kernel comes to the best of the whole grid, seed by seed, on grids of ``field.py``.

    python benchmarks/own_grids.py --record benchmarks/results/field.h200     # needs a GPU, about 20 s a kernel
    python benchmarks/own_grids.py --seeds 10 --out benchmarks/results/own-grids.md

The second command replays what the first recorded: it needs torch and Triton, but no GPU. The baseline is what
``triton.autotune`` does, which measures every config: its regret is 0. Each search is the public ``bo_tune.tune`` of
one problem, and nothing has been tuned before. Budgets are the usual 40 configs, and a fifth of those that can run.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from autotuned import configs_of
from drop_in import FIELD, MEASURED_WHOLE, SHARE, WITHIN

import bo_tune
from bo_tune.api import BUDGET
from bo_tune.core.problem import SizedProblem
from bo_tune.kernels.user.definition import Definition
from bo_tune.processes.importing import import_source

GRIDS = Path(__file__).resolve().parent / "results" / "field.h200"
NOTES = """
*Regret* is the recorded time of the config that was chosen over that of the grid's best, minus one, in %. *Claimed* is
the mean of the certificates: the probability that nothing is left that is better by more than 1 %. A grid is one
recording, so a few tenths of a per cent of a regret may be noise, and the grid's best is luckier than another run would
find it.
"""


@dataclass(frozen=True, slots=True)
class Searches:
    """What searches of one kernel with one budget came to, a value for each seed.

    Attributes:
        regrets: fractions.
        launched: configs.
        claimed: probabilities.
    """

    regrets: Sequence[float]
    launched: Sequence[int]
    claimed: Sequence[float]

    def cells(self) -> str:
        """Return the cells of a row."""
        within = f"{sum(1 + regret <= WITHIN for regret in self.regrets)} of {len(self.regrets)}"
        worst, claimed = 100 * max(self.regrets), mean(self.claimed)
        return f"{100 * mean(self.regrets):.2f} | {worst:.1f} | {within} | {claimed:.2f}"


def searched() -> Iterator[tuple[str, Definition, Mapping[str, Any]]]:
    """Yield the kernels with so many configs that they are searched, by name. Shorter lists are measured whole."""
    for name, (kernel, sizes) in import_source(FIELD).CASES.items():
        if len(configs_of(kernel, SizedProblem(kernel.name, tuple(sizes.items())), {})) >= MEASURED_WHOLE:
            yield name, kernel, sizes


def record(folder: Path) -> None:
    """Measure every config of each kernel, on the GPU."""
    for _, kernel, sizes in searched():
        for best in bo_tune.grid(kernel, [sizes], record=folder, progress=False):
            print(best, flush=True)


def rows(folder: Path, seeds: int) -> Iterator[str]:
    """Replay searches, and yield the rows of the table."""
    for name, kernel, sizes in searched():
        device = f"replay:{folder}"
        (whole,) = bo_tune.grid(kernel, [sizes], device=device, progress=False)
        for budget in sorted({BUDGET, max(BUDGET, int(SHARE * whole.launched_configs))}):
            found = [
                bo_tune.tune(kernel, [sizes], device=device, budget=budget, seed=seed, progress=False)[0]
                for seed in range(seeds)
            ]
            came_to = Searches(
                [best.time_us / whole.time_us - 1 for best in found],
                [best.launched_configs for best in found],
                [best.certificate.probability for best in found if best.certificate is not None],
            )
            launched = f"{mean(came_to.launched):.0f} of {whole.launched_configs}"
            yield f"| {name} | {whole.time_us:.1f} | {launched} | {came_to.cells()} |"


def main() -> None:
    """Record, or replay and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="DIR", help="record the grids into DIR")
    parser.add_argument("--grids", type=Path, default=GRIDS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.record:
        record(options.record)
        return
    table = [
        "| kernel | grid's best, us | configs launched, mean | mean regret, % | worst | within 1 % | claimed |",
        "|---|---:|---|---:|---:|---|---:|",
    ]
    for row in rows(options.grids, options.seeds):
        print(row, flush=True)
        table.append(row)
    if options.out:
        command = f"`python benchmarks/own_grids.py --seeds {options.seeds} --out {options.out}`"
        options.out.write_text(
            f"# Searches of users' kernels on recorded grids\n\n{command}\n\n" + "\n".join(table) + f"\n{NOTES}"
        )


if __name__ == "__main__":
    main()
