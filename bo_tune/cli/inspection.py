"""``bo-tune compare``, ``simulate`` and ``show``: what only reads, or keeps nothing."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from bo_tune.cli import options as o
from bo_tune.compare import compare
from bo_tune.listing import list_studies
from bo_tune.recording import read_recordings
from bo_tune.report.console import (
    comparison_lines,
    comparison_tables,
    simulation_table,
    studies_lines,
    studies_tables,
    terminal,
)
from bo_tune.sampler_names import GRID, GRID_GP
from bo_tune.search import StopRule
from bo_tune.session import SessionSettings
from bo_tune.simulate import document, simulate
from bo_tune.store.storage import StudyStore


def compare_command(
    tuned_dir: Annotated[Path, typer.Argument(help="Folder that bo-tune tune wrote.")],
    grid_dir: Annotated[Path, typer.Argument(help="Folder that bo-tune grid wrote.")],
    recordings: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Recorded grids: their times settle both.")
    ] = None,
    json_file: o.JsonFile = None,
) -> None:
    """Compare tuned JSON with an exhaustive search's, entry by entry: regret, and what each cost.

    Example: bo-tune compare tuned grid --recordings studies/recordings
    """
    comparisons = compare(tuned_dir, grid_dir, read_recordings(recordings) if recordings else ())
    console = terminal()
    for table in comparison_tables(comparisons):
        console.print(table)
    for line in comparison_lines(comparisons):
        console.print(line, highlight=False, soft_wrap=True)
    if json_file is not None:
        o.write_json(json_file, comparisons.to_json())


def simulate_command(
    recordings: o.Recordings,
    history: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Recorded grids tuned first, to learn from.")
    ] = None,
    sampler: Annotated[str, typer.Option(metavar="NAME")] = GRID_GP,
    budget: Annotated[int, typer.Option(min=1, help="Configs to launch in each study.")] = 40,
    stop: Annotated[bool, typer.Option("--stop/--no-stop", help="Let the stop rule end studies early.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds: 0, 1, …")] = 1,
    json_file: o.JsonFile = None,
) -> None:
    """Tune recorded grids as if they were GPUs, and tell the regret of what would be written.

    Example: bo-tune simulate --recordings studies/recordings --sampler grid-gp --budget 40 --seeds 3
    """
    name = o.sampler_name(sampler)
    grids = read_recordings(recordings)
    taught = read_recordings(history) if history else []
    console = terminal()
    settings = SessionSettings(name, None if name == GRID else budget, stop_rule=StopRule() if stop else None)
    runs = simulate(grids, settings, seeds=range(seeds), history=taught)
    total = len(grids) * seeds
    done = list(
        track(runs, "simulating", total=total, console=console, transient=True, disable=not console.is_terminal)
    )
    result = document(done)
    console.print(simulation_table(result["summary"]))
    mean = result["summary"]
    console.print(
        f"{name}, mean over {len(done)} runs: {mean['mean_launched_configs']:.1f} configs launched, "
        f"{mean['mean_launches']:.0f} launches, {mean['mean_invalid_proposed']:.1f} invalid proposals, "
        f"{mean['mean_sampler_ms_per_trial']:.2f} ms per proposal",
        highlight=False,
        soft_wrap=True,
    )
    if json_file is not None:
        o.write_json(json_file, result)


def show_command(storage: o.Storage = o.DEFAULT_STORAGE, json_file: o.JsonFile = None) -> None:
    """Show the studies of a database: trials by state and reason, best and default time.

    Example: bo-tune show --storage sqlite:///bo_tune.db
    """
    store = StudyStore(storage, create=False)
    studies = list_studies(store)
    store.close()
    console = terminal()
    for table in studies_tables(studies):
        console.print(table)
    for line in studies_lines(studies):
        console.print(line, highlight=False, soft_wrap=True)
    if json_file is not None:
        o.write_json(json_file, {"studies": [study.to_json() for study in studies]})
