"""How near a search of a user's kernel comes to the best of the whole grid, seed by seed, on grids of ``field.py``.

    python benchmarks/own_grids.py --record benchmarks/results/field.h200     # needs a GPU, about 20 s a kernel
    python benchmarks/own_grids.py --seeds 10 --out benchmarks/results/own-grids.md

The second command replays what the first recorded: it needs torch and Triton, but no GPU. The baseline is what
``triton.autotune`` does, which measures every config: it loses nothing. Each search is the public ``bo_tune.tune`` of
one problem, and nothing has been tuned before. Budgets are the usual 40 configs, and a fifth of those that can run.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import bo_tune
from bo_tune.processes.importing import import_source

FIELD = str(Path(__file__).resolve().with_name("field.py"))
GRIDS = Path(__file__).resolve().parent / "results" / "field.h200"
RECORDED = (
    "softmax",
    "matmul",
    "tma_matmul",
    "persistent_matmul",
    "layer_norm_backward",
    "split_k",
    "attention",
    "grouped_gemm",
)
"""Those with so many configs that they are searched. Short lists are measured whole."""

BUDGET = 40
SHARE = 5
"""A search may also launch one config in so many."""

AS_GOOD = 1.0
"""Loss in % that is wanted at most."""

NOTES = """
*Loss* is the recorded time of the config that was chosen over that of the grid's best, minus one, in %. *Claimed* is
the mean of the certificates: the probability that nothing is left that is better by more than 1 %. A grid is one
recording, so a few tenths of a per cent of a loss may be noise, and the grid's best is luckier than another run would
find it.
"""


@dataclass(frozen=True, slots=True)
class Searches:
    """What searches of one kernel with one budget came to, a value for each seed.

    Attributes:
        losses: in %.
        launched: configs.
        claimed: probabilities.
    """

    losses: Sequence[float]
    launched: Sequence[int]
    claimed: Sequence[float]

    @property
    def good(self) -> int:
        """How many lost no more than is wanted."""
        return sum(loss <= AS_GOOD for loss in self.losses)

    def cells(self) -> str:
        """Return the cells of a row."""
        within = f"{self.good} of {len(self.losses)}"
        return f"{mean(self.losses):.2f} | {max(self.losses):.1f} | {within} | {mean(self.claimed):.2f}"


def record(folder: Path) -> None:
    """Measure every config of each kernel, on the GPU."""
    cases = import_source(FIELD).CASES
    for name in RECORDED:
        kernel, sizes = cases[name]
        for best in bo_tune.grid(kernel, [sizes], record=folder, progress=False):
            print(best, flush=True)


def rows(folder: Path, seeds: int) -> Iterator[str]:
    """Replay searches, and yield the rows of the table."""
    cases = import_source(FIELD).CASES
    for name in RECORDED:
        kernel, sizes = cases[name]
        device = f"replay:{folder}"
        (whole,) = bo_tune.grid(kernel, [sizes], device=device, progress=False)
        for budget in sorted({BUDGET, max(BUDGET, whole.launched_configs // SHARE)}):
            found = [
                bo_tune.tune(kernel, [sizes], device=device, budget=budget, seed=seed, progress=False)[0]
                for seed in range(seeds)
            ]
            came_to = Searches(
                [100 * (best.time_us / whole.time_us - 1) for best in found],
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
        "| kernel | grid's best, us | configs launched, mean | mean loss, % | worst | within 1 % | claimed |",
        "|---|---:|---|---:|---:|---|---:|",
    ]
    for row in rows(options.grids, options.seeds):
        print(row, flush=True)
        table.append(row)
    if options.out:
        command = f"`python benchmarks/own_grids.py --seeds {options.seeds} --out FILE`"
        options.out.write_text(
            f"# Searches of users' kernels on recorded grids\n\n{command}\n\n" + "\n".join(table) + f"\n{NOTES}"
        )


if __name__ == "__main__":
    main()
