"""``bo-tune compare``, ``simulate`` and ``show``: what only reads, or keeps nothing."""

from pathlib import Path
from typing import Annotated

import typer

from bo_tune.cli import completion
from bo_tune.cli import options as o
from bo_tune.core.choices import DEFAULT_STORAGE, GRID, GRID_GP
from bo_tune.errors import InputError
from bo_tune.processes import exit_codes
from bo_tune.processes.garbage import paused_gc


def compare_command(
    tuned_dir: Annotated[Path, typer.Argument(metavar="TUNED", help="Folder that bo-tune tune wrote.")],
    grid_dir: Annotated[
        Path, typer.Argument(metavar="GRID", help="Folder that bo-tune grid wrote, or another search.")
    ],
    recordings: Annotated[
        Path | None, o.option(o.PROBLEM, "DIR", "Recorded grids, whose times decide the comparison.")
    ] = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Compare tuned JSON with that of another search, such as an exhaustive one: regret by entry, and costs.

    Exit code 1 if the two have no entry in common.

    Examples:
      bo-tune compare tuned grid
      bo-tune compare tuned grid --recordings studies/recordings --json compared.json
    """
    from bo_tune.analysis.compare import compare
    from bo_tune.cli.output import Output
    from bo_tune.display.comparison import comparison_lines, comparison_tables
    from bo_tune.formats.recording import read_recordings

    output = Output("compare", json_file, quiet=quiet)
    comparisons = compare(tuned_dir, grid_dir, read_recordings(recordings) if recordings else ())
    if not comparisons.common:
        output.say(f"{tuned_dir} and {grid_dir} have no entry in common, so there is nothing to compare")
        output.json(comparisons.to_json())
        raise typer.Exit(exit_codes.FAILED)
    output.tables(*comparison_tables(comparisons))
    output.lines(*comparison_lines(comparisons))
    output.json(comparisons.to_json())


def simulate_command(
    recordings: Annotated[Path, o.option(o.PROBLEM, "DIR", "Folder of recorded grids.")],
    history: Annotated[
        Path | None, o.option(o.SEARCH, "DIR", "Recorded grids to tune first, and to learn from.")
    ] = None,
    sampler: Annotated[
        str, o.option(o.SEARCH, "NAME", "How configs are proposed.", complete=completion.samplers)
    ] = GRID_GP,
    budget: Annotated[int, o.option(o.SEARCH, "N", "Configs to launch in each study.", min=1)] = 40,
    stop: Annotated[bool, o.flag(o.SEARCH, "Let the stop rule end studies early.", "--stop/--no-stop")] = False,
    bundled: o.Bundled = True,
    seeds: Annotated[int, o.option(o.SEARCH, "N", "Number of seeds: 0, 1, …", min=1)] = 1,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Tune recorded grids as if they were GPUs, and compute the regret of what would be written.

    Examples:
      bo-tune simulate --recordings studies/recordings --budget 20
      bo-tune simulate --recordings studies/recordings --sampler random --seeds 3
    """
    from rich.progress import track

    from bo_tune.analysis.simulate import document, simulate
    from bo_tune.cli.output import Output
    from bo_tune.core.conclusion import StopRule
    from bo_tune.display.comparison import simulation_line, simulation_table
    from bo_tune.display.console import is_live
    from bo_tune.formats.recording import read_recordings
    from bo_tune.session.session import SessionSettings
    from bo_tune.store.storage import silence_optuna

    silence_optuna()
    output = Output("simulate", json_file, quiet=quiet)
    name = o.sampler_name(sampler)
    grids = read_recordings(recordings)
    taught = read_recordings(history) if history else []
    rule = StopRule() if stop else None
    settings = SessionSettings(name, None if name == GRID else budget, stop_rule=rule, bundled=bundled)
    runs = simulate(grids, settings, seeds=range(seeds), history=taught)
    hidden = not is_live(output.console)
    total = len(grids) * seeds
    done = list(track(runs, "simulating", total=total, console=output.console, transient=True, disable=hidden))
    result = document(done)
    output.tables(simulation_table(result["summary"]))
    output.lines(simulation_line(name, result["summary"]))
    output.json(result)


@paused_gc()
def show_command(
    study: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STUDY",
            help="Only studies with these words in their names. If one study matches, it is shown in full.",
        ),
    ] = None,
    storage: o.Storage = DEFAULT_STORAGE,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Show the studies of a database: trials by state and reason, best and default time; or one study in full.

    Examples:
      bo-tune show --storage sqlite:///bo_tune.db
      bo-tune show lora_shrink m16. k4096
    """
    from bo_tune.analysis.listing import list_studies, study_detail
    from bo_tune.cli.output import Output
    from bo_tune.display.reuse import unreadable_lines
    from bo_tune.display.studies import studies_lines, studies_tables, study_lines, study_tables
    from bo_tune.store.looking import looking_at

    output = Output("show", json_file, quiet=quiet)
    words = study or []
    with looking_at(storage) as store:
        studies = list_studies(store, words)
        if words and not studies:
            raise InputError(
                f"{store.url}: this database has no study with {' and '.join(map(repr, words))} in its name"
            )
        detail = study_detail(store, studies[0]) if words and len(studies) == 1 else None
        unreadable = dict(store.unreadable)
    if detail is not None:
        output.tables(*study_tables(detail))
        output.lines(*study_lines(detail))
    else:
        output.tables(*studies_tables(studies))
        output.lines(*studies_lines(studies))
    output.say(*unreadable_lines(unreadable))
    if json_file is not None:
        found = [detail.to_json()] if detail else [one.to_json() for one in studies]
        output.json({"studies": found, "unreadable": unreadable})
