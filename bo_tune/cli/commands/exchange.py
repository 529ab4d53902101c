"""``bo-tune export``, ``import``, ``write`` and ``merge``: results that travel without the database; ``delete``: those
that go."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bo_tune.cli import options as o
from bo_tune.core.choices import DEFAULT_STORAGE, MEMORY
from bo_tune.errors import InputError
from bo_tune.processes import exit_codes

if TYPE_CHECKING:
    from bo_tune.store.storage import StudyStore


def export_command(
    storage: o.Storage = DEFAULT_STORAGE,
    out: Annotated[Path, o.option(o.OUTPUT, "DIR", "Folder to write the exported studies to.")] = Path("studies"),
    kernel: o.Kernel = None,
    gpu: Annotated[str | None, o.option(o.PROBLEM, "NAME", "Only studies of GPUs whose names contain this.")] = None,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Write each study of a database into a T4 file that can be imported elsewhere.

    Examples:
      bo-tune export --storage sqlite:///bo_tune.db --out exported
    """
    from bo_tune.cli.output import Output
    from bo_tune.display.reuse import unreadable_lines
    from bo_tune.engines.folder import check_writable
    from bo_tune.session.exchange import export_study
    from bo_tune.store.storage import StudyStore

    output = Output("export", json_file, quiet=quiet)
    with StudyStore(storage, only_read=True) as store:
        chosen = [
            s
            for s in store.summaries(ids=_numbers(store, kernel, gpu or ""))
            if (not kernel or s.name.problem.kernel in kernel) and (gpu or "").lower() in s.name.gpu.lower()
        ]
        if not chosen:
            output.say(*unreadable_lines(store.unreadable))
            raise InputError(f"{store.url}: this database has no such study")
        check_writable(out)
        trials = store.trials_of(chosen)
        chosen = [summary for summary in chosen if summary.name in trials]
        paths = [export_study(summary, trials[summary.name], out) for summary in chosen]
    output.say(*unreadable_lines(store.unreadable))
    written = [(s, path) for s, path in zip(chosen, paths, strict=True) if path is not None]
    empty = len(paths) - len(written)
    note = f"; {empty} without a trial left out" if empty else ""
    output.lines(f"wrote {len(written)} studies to {out}{note}")
    output.json(
        {"studies": [{"study": str(s.name), "file": str(path)} for s, path in written], "without_trials": empty}
    )


def _numbers(store: "StudyStore", kernels: Sequence[str] | None, gpu: str) -> list[int]:
    """Return the numbers of the studies whose names fit, so that no others need to be read."""
    names = store.names().items()
    return [i for i, n in names if (not kernels or n.split(" |")[0] in kernels) and gpu.lower() in n.lower()]


def import_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE|DIR…", help="Exported studies, or folders of them.")],
    storage: o.Storage = DEFAULT_STORAGE,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Add exported studies to a database: their trials, and their results where nothing else was tried there.

    Examples:
      bo-tune import exported --storage sqlite:///all.db
      bo-tune import exported --storage postgresql+psycopg://tuner@db/studies
    """
    from bo_tune.cli.output import Output
    from bo_tune.formats.recording import read_recording, read_recordings
    from bo_tune.session.exchange import import_study
    from bo_tune.session.exported import read_exported
    from bo_tune.store.storage import StudyStore

    output = Output("import", json_file, quiet=quiet)
    if storage == MEMORY:
        raise InputError("--storage: name the database to import into")
    exported = [  # all are checked before any reaches the database
        read_exported(recording)
        for path in files
        for recording in (
            read_recordings(path, any_kernel=True) if path.is_dir() else [read_recording(path, any_kernel=True)]
        )
    ]
    studies = []
    with StudyStore(storage) as store:
        for one in exported:
            done = import_study(store, one)
            result = "with its result" if done.has_result else "no result yet"
            output.lines(f"{done.name}: added {done.added} trials, {result}")
            studies.append({"study": str(done.name), "trials_added": done.added, "finished": done.has_result})
    output.json({"studies": studies})


def delete_command(
    study: Annotated[
        list[str],
        typer.Argument(metavar="STUDY", help="The study's name, or words that only its name contains."),
    ],
    storage: o.Storage = DEFAULT_STORAGE,
    yes: Annotated[bool, o.flag(o.DATABASE, "Do not ask for confirmation.", "--yes", "-y")] = False,
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Delete a study from a database, with all its trials, even one that cannot be read or was set aside.

    It asks before it does so. A study that is being worked on is refused.

    Examples:
      bo-tune delete lora_shrink m16. k4096
      bo-tune delete lora_expand 'set aside' --storage sqlite:///bo_tune.db
      bo-tune delete lora_expand k32 --storage sqlite:///bo_tune.db --yes
    """
    from bo_tune.analysis.listing import named
    from bo_tune.cli.output import Output
    from bo_tune.store.storage import StudyStore

    output = Output("delete", json_file, quiet=quiet)
    with StudyStore(storage, create=False) as store:
        numbers = {name: study_id for study_id, name in store.names().items()}
        found = named(list(numbers), study)
        if len(found) != 1:
            those = "no study" if not found else f"{len(found)} studies"
            more = f", such as {found[0]} and {found[1]}; give more of the name" if found else ""
            words = " and ".join(map(repr, study))
            raise InputError(f"{store.url}: {those} with {words} in the name{more}")
        number = numbers[found[0]]
        holder = store.holders().get(number)
        if holder is not None:
            raise InputError(
                f"{found[0]}: {holder.host}, process {holder.pid}, is working on this study; end that process first"
            )
        count = sum(store.counts([number]).get(number, {}).values())
        if not yes and not output.agreed(f"delete {found[0]} with {count} trials?", "--yes"):
            output.say("nothing was deleted")
            raise typer.Exit(exit_codes.FAILED)
        trials = store.delete(number, found[0])
    output.lines(f"deleted {found[0]}: {trials} trials")
    output.json({"deleted": {"study": found[0], "trials": trials}})


def write_command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD…", help="Only studies whose names contain all of these.")
    ] = None,
    storage: o.Storage = DEFAULT_STORAGE,
    out: o.Out = Path("tuned"),
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Write the tuned JSON of a database's finished studies. Works at any time, also after an interrupted tune.

    Of several studies of one lookup the one measured last counts, as it does against what the folder holds.

    Examples:
      bo-tune write --storage sqlite:///bo_tune.db --out tuned
      bo-tune write 'NVIDIA H200' lora_shrink --out tuned
    """
    from bo_tune.analysis.listing import named
    from bo_tune.cli.output import Output
    from bo_tune.display.reuse import unreadable_lines
    from bo_tune.engines.folder import missing_lines, write_placed
    from bo_tune.session.finished import stored_entries
    from bo_tune.store.storage import StudyStore

    output = Output("write", json_file, quiet=quiet)
    with StudyStore(storage, only_read=True) as store:
        names = store.names()
        wanted = set(named(list(names.values()), words or ()))
        chosen = store.summaries(ids=[number for number, name in names.items() if name in wanted])
        done = [summary for summary in chosen if summary.result is not None]
        entries = stored_entries(done, store.trials_of(done))
    output.say(*unreadable_lines(store.unreadable))
    if not entries:
        raise InputError(f"{store.url}: this database has no finished study whose config an engine looks up")
    paths = write_placed(out, entries, lambda line: output.notes(f"note: {line}"))
    left = len(chosen) - len(done)
    output.notes(*(f"wrote {path}" for path in paths), *(f"note: {line}" for line in missing_lines(paths)))
    output.lines(f"{len(entries)} entries{f'; {left} studies have not ended' if left else ''}")
    output.json({"written": [str(path) for path in paths], "entries": len(entries), "not_ended": left})


def merge_command(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of tuned JSON.")],
    out: o.Out = Path("merged"),
    json_file: o.JsonFile = None,
    quiet: o.Quiet = False,
) -> None:
    """Merge the tuned JSON of several hosts. For equal keys the newest entry counts, an engine's before bo_tune's own.

    Examples:
      bo-tune merge host1/tuned host2/tuned --out merged
    """
    from bo_tune.cli.output import Output
    from bo_tune.engines.folder import merge_tables
    from bo_tune.engines.tuned_with import folder_lines

    output = Output("merge", json_file, quiet=quiet)
    paths = merge_tables(folders, out, lambda line: output.notes(f"note: {line}"))
    output.lines(*(f"wrote {path}" for path in paths))
    output.warn(*folder_lines(out)[1:])
    output.json({"written": [str(path) for path in paths]})
