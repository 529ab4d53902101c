"""The open championship: samplers of any make on any measured grids, under one protocol.

``python benchmarks/championship.py FOLDER … --seeds 10 --out benchmarks/results/championship`` runs every contestant on
every T4 file of the folders, and writes championship.md and .png. Each search adds a line to
championship.jsonl; what stands there of the same code is not run again, so a run that was stopped goes on. Rivals
and plots need ``pip install -e '.[bench]'``; a rival that is not installed is left out.

A launch is a config tried, one that cannot run included. Every contestant sees the same repetitions of a config under
a seed. After n launches its best few are measured again, with the default config where one is known, and the regret is
the recorded time of the one that would be written, over the grid's best, minus one.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import optuna
from contestants import CONTESTANTS, FEWER_SEEDS, SMALLER_BUDGET, TAUGHT, installed, maker, search, teachers
from measured_grids import MeasuredGrid, read_grids
from standings import Regrets, duels, host, of_group, plot, table

from bo_tune.processes.threads import one_blas_thread

OURS = "grid-gp"

NOTE = "<!-- note: kept when the report is written again -->"

TOLERANCE = 0.01
"""Of certificates: a config that is faster by less is not missed."""

CHECKPOINTS = (10, 20, 40, 80, 160)
"""Launches after which the regret is taken."""


@dataclass(frozen=True, slots=True)
class Match:
    """One contestant on one grid with one seed."""

    folder: str
    grid: str
    contestant: str
    seed: int
    budget: int


@dataclass(frozen=True, slots=True)
class Played:
    """How a match ended.

    Attributes:
        maker: the code that searched.
        launched: configs launched.
        invalid: of these, configs that could not run.
        ms_per_launch: of the search itself.
        regret: by checkpoint: of what would be written, as a share; of a search that ended before, what it ended with.
        claimed: by checkpoint: what its certificate said.
        kept: by checkpoint: whether that was so.
    """

    match: Match
    maker: str
    launched: int
    invalid: int
    ms_per_launch: float
    regret: dict[str, float]
    claimed: dict[str, float] = field(default_factory=dict)
    kept: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> "Played":
        """Read a line of the file of runs."""
        stored = json.loads(text)
        return cls(**{**stored, "match": Match(**stored["match"])})


@cache
def grids_of(folder: str) -> dict[str, MeasuredGrid]:
    """Return the grids of a folder by name; each process reads them once."""
    return {grid.name: grid for grid in read_grids(Path(folder))}


def play(match: Match) -> Played:
    """Play a match."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    grids = grids_of(match.folder)
    grid = grids[match.grid]
    with one_blas_thread():
        others = list(grids.values())
        found = search(match.contestant, grid, match.seed, match.budget, others, certified_at=CHECKPOINTS)
    launched = found.launched
    most = min(match.budget, SMALLER_BUDGET.get(match.contestant, match.budget))
    return Played(
        match=match,
        maker=maker(match.contestant),
        launched=len(launched),
        invalid=sum(not grid.launch(index, match.seed) for index in launched),
        ms_per_launch=round(1e3 * found.seconds / len(launched), 3),
        regret={str(at): grid.regret(launched[:at], match.seed) for at in CHECKPOINTS if at <= most},
        claimed={str(at): claimed for at, claimed in found.claimed.items()},
        kept={str(at): grid.found(launched[:at]) <= TOLERANCE for at in found.claimed},
    )


def matches(folders: Iterable[str], contestants: Sequence[str], seeds: int, budget: int) -> Iterator[Match]:
    """Yield what there is to play: seeds first, so that an early end leaves all grids with as many."""
    fields = [(folder, grid) for folder in folders for grid in grids_of(folder).values()]
    for seed in range(seeds):
        for contestant in contestants:
            for folder, grid in fields:
                learns = contestant != TAUGHT or teachers(grid, list(grids_of(folder).values()))
                if learns and seed < FEWER_SEEDS.get(contestant, seeds):
                    yield Match(folder, grid.name, contestant, seed, budget)


def read_played(path: Path, contestants: Iterable[str] = CONTESTANTS) -> dict[Match, Played]:
    """Return what was played before, by code that is still the same."""
    lines = path.read_text().splitlines() if path.exists() else []
    makers = {name: maker(name) for name in contestants if installed(name)}
    played = map(Played.from_json, lines)
    return {one.match: one for one in played if makers.get(one.match.contestant, one.maker) == one.maker}


def _played(left: Sequence[Match], jobs: int) -> Iterator[Played]:
    """Play matches, so many at once; each is handed out when it is over."""
    if jobs == 1:
        yield from map(play, left)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(play, match) for match in left]):
            yield future.result()


def play_all(wanted: Sequence[Match], path: Path, jobs: int) -> dict[Match, Played]:
    """Play what was not played yet, add each to the file of runs, and return all that was wanted."""
    played = read_played(path)
    left = [match for match in wanted if match not in played]
    with path.open("a") as file:
        for one in _played(left, jobs):
            played[one.match] = one
            file.write(json.dumps(asdict(one)) + "\n")
            file.flush()
    return {match: played[match] for match in wanted}


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--contestants", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=CHECKPOINTS[-1])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/championship"))
    options = parser.parse_args()
    there = [name for name in options.contestants if installed(name)]
    wanted = list(matches(options.folders, there, options.seeds, options.budget))
    command = f"python benchmarks/championship.py {shlex.join(sys.argv[1:])}, {datetime.now(UTC):%Y-%m-%d}"
    played = play_all(wanted, _beside(options.out, ".jsonl"), options.jobs)
    write(list(played.values()), options.out, command)


def write(played: Sequence[Played], out: Path, command: str) -> None:
    """Write what was played: the report, its figures and its curves."""
    groups = by_group(played)
    names = {name: None for name in CONTESTANTS if any(one.match.contestant == name for one in played)}
    results = {name: regrets_of(played, name) for name in names}
    panels = {title: of_group(results, grids) for title, grids in groups.items()}
    makers = sorted({one.maker for one in played})
    head = [f"- `{command}`", f"- {', '.join(makers)}; {host()}"]
    path = _beside(out, ".md")
    head += ["", *kept_note(path)]
    path.write_text("\n".join(report(panels, head, played)) + "\n")
    if find_spec("matplotlib"):
        plot(panels, CHECKPOINTS, _beside(out, ".png"))


def kept_note(path: Path) -> list[str]:
    """Return the lines that people wrote into the report that is there, between two lines ``NOTE``."""
    parts = path.read_text().split(f"{NOTE}\n") if path.exists() else []
    return [NOTE, *parts[1].splitlines(), NOTE] if len(parts) == 3 else [NOTE, NOTE]


def by_group(played: Iterable[Played]) -> dict[str, list[str]]:
    """Return the grids that were played on, by the name of their folder."""
    groups: dict[str, list[str]] = {}
    for one in played:
        grids = groups.setdefault(Path(one.match.folder).name, [])
        if one.match.grid not in grids:
            grids.append(one.match.grid)
    return {title: sorted(grids) for title, grids in sorted(groups.items())}


def regrets_of(played: Iterable[Played], contestant: str) -> dict[int, Regrets]:
    """Return a contestant's regrets by checkpoint."""
    own = [one for one in played if one.match.contestant == contestant]
    return {
        at: {(one.match.grid, one.match.seed): one.regret[str(at)] for one in own if str(at) in one.regret}
        for at in CHECKPOINTS
    }


def report(
    panels: Mapping[str, Mapping[str, Mapping[int, Regrets]]], head: Sequence[str], played: Sequence[Played]
) -> list[str]:
    """Return the lines of the report."""
    lines = ["# The open championship", "", *head, "", "Mean regret in %, over the seeds of a grid and then over grids"]
    lines += ["(95 % interval, bootstrapped over seeds), of what would be written after so many configs were launched."]
    lines += ["The baseline is the best recorded config of each grid.", ""]
    for title, results in panels.items():
        lines += [f"## {title}", "", *table(results, CHECKPOINTS), ""]
        if OURS in results:
            lines += [
                "log(time / best) that is saved in pairs, in % of the time (p by Wilcoxon, one-sided; pairs):",
                "",
            ]
            lines += [*duels(results, OURS, CHECKPOINTS), ""]
    lines += ["## Grid by grid", ""]
    for title, results in panels.items():
        grids = {grid for by_checkpoint in results.values() for keys in by_checkpoint.values() for grid, _ in keys}
        for grid in sorted(grids):
            lines += [f"{title}: {grid}", "", *table(of_group(results, [grid]), CHECKPOINTS), ""]
    lines += ["## What certificates claim", "", *certificates(played), ""]
    return [*lines, "## What a proposal costs", "", *costs(played)]


def certificates(played: Iterable[Played]) -> list[str]:
    """Return a table of how often what certificates claim is so, at all checkpoints together."""
    claims: dict[str, list[tuple[float, bool]]] = {}
    for one in played:
        claims.setdefault(one.match.contestant, []).extend((one.claimed[at], one.kept[at]) for at in one.claimed)
    lines = ["That nothing untried is faster by more than 1 %, after each number of launches above.", ""]
    lines += ["| contestant | claimed at least | certificates | mean claimed | true share |", "|---|---|---|---|---|"]
    for name, pairs in claims.items():
        for least in (0.9, 0.8, 0.5) if pairs else ():
            sure = [pair for pair in pairs if pair[0] >= least]
            if sure:
                means = [sum(column) / len(sure) for column in zip(*sure, strict=True)]
                lines.append(f"| {name} | {least} | {len(sure)} of {len(pairs)} | {means[0]:.2f} | {means[1]:.2f} |")
    return lines


def costs(played: Sequence[Played]) -> list[str]:
    """Return a table of what contestants take for a launch, and how many of their launches could not run."""
    lines = ["| contestant | ms a launch | launches that could not run, % |", "|---|---|---|"]
    for name in CONTESTANTS:
        own = [one for one in played if one.match.contestant == name]
        if own:
            ms = sum(one.ms_per_launch for one in own) / len(own)
            share = 100 * sum(one.invalid for one in own) / sum(one.launched for one in own)
            lines.append(f"| {name} | {ms:.1f} | {share:.1f} |")
    return lines


def _beside(out: Path, suffix: str) -> Path:
    """The path with an ending more; the name may have dots of its own."""
    return out.with_name(out.name + suffix)


if __name__ == "__main__":
    main()
