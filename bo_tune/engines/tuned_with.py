"""The kernels with which entries were tuned: an engine's, or the project's own, which no engine runs.

Both are written into files of the same names, but a config found for one kernel is only a guess for the other. So there
is always a message if a file holds both, and entries of an engine's kernels are replaced by the others only on request.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from bo_tune.engines.folder import kernel_sources, read_table
from bo_tune.engines.provenance import is_own
from bo_tune.engines.registry import engine_of_file
from bo_tune.errors import TableError

NOT_AN_ENGINES = "bo_tune's own kernels, which no engine runs"

UNKNOWN = "kernels that no sidecar names"
"""Source of entries of unknown origin. They may have been tuned with an engine's kernels."""


def check_mix(folder: Path, wanted: Mapping[str, Iterable[str]], *, own_wanted: bool) -> list[str]:
    """Refuse to mix the project's own kernels into files tuned for an engine's; return lines of warnings.

    Args:
        wanted: kernel sources of the entries to write into each file.
        own_wanted: whether the user asked for the project's own kernels by name. If so, mixing them in only leads to a
            warning.

    Raises:
        TableError: a file would hold both, and the user did not ask for that; or the file or its sidecar is malformed.
    """
    warnings = []
    for name, given in sorted(wanted.items()):
        there, sources = _sources_in(folder / name), set(given)
        others = _others({*sources, *there})
        if _own(sources) and others:
            found = f"{folder / name} has entries of {_named(others)}"
            if not own_wanted:
                raise TableError(
                    f"{found}; do not mix them with entries of {NOT_AN_ENGINES}: choose another --out, or pass "
                    "--kernels builtin if you want that"
                )
            warnings.append(f"{found}; entries of {NOT_AN_ENGINES}, are being mixed in")
        elif _own(there):
            count = sum(there[source] for source in _own(there))
            if _others(sources):
                warnings.append(f"{folder / name}: {_counted(count)} tuned with {NOT_AN_ENGINES}; tune them again")
    return warnings


def _sources_in(table: Path) -> Counter[str]:
    """Count the entries of a table by their kernel source; none if the table does not exist."""
    if not table.exists():
        return Counter()
    sources = kernel_sources(table)
    return Counter(sources.get(keys, UNKNOWN) for keys in read_table(table).entries)


def source_counts(folder: Path) -> dict[str, dict[str, int]]:
    """Return the number of entries by file name and kernel source, as far as sidecars tell."""
    found, _ = _told(folder)
    return found


def folder_lines(folder: Path) -> list[str]:
    """Say with which kernels the files of a folder were tuned, as far as their sidecars tell.

    The first line sums up all files. There are no lines if no sidecar tells anything.
    """
    found, malformed = _told(folder)
    named = [f"tuned with {_named({source for counts in found.values() for source in counts})}"] if found else []
    return [*named, *own_lines(found), *malformed]


def own_lines(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return one line for each file that has entries of the project's own kernels.

    Args:
        found: the result of ``source_counts``.
    """
    lines = []
    for name, counts in found.items():
        own, others = _own(counts), _others(counts)
        if own:
            beside = f", and {sum(counts[source] for source in others)} of {_named(others)}" if others else ""
            lines.append(f"{name}: {_counted(sum(counts[s] for s in own))} tuned with {NOT_AN_ENGINES}{beside}")
    return lines


def _told(folder: Path) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the contents of a folder's sidecars, and errors for malformed ones. An engine reads none of them."""
    found, malformed = {}, []
    for name in sorted(path.name for path in folder.iterdir() if engine_of_file(path.name)):
        try:
            counts = dict(Counter(kernel_sources(folder / name).values()))
        except TableError as error:
            malformed.append(str(error))
            continue
        if counts:
            found[name] = counts
    return found, malformed


def _own(sources: Iterable[str]) -> list[str]:
    return sorted(source for source in sources if is_own(source))


def _others(sources: Iterable[str]) -> list[str]:
    return sorted(source for source in sources if not is_own(source))


def _named(sources: Iterable[str]) -> str:
    return " and ".join(sorted({"bo_tune's own kernels" if is_own(source) else source for source in sources}))


def _counted(count: int) -> str:
    return f"{count} entries were" if count > 1 else "1 entry was"
