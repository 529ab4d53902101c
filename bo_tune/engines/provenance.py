"""The origin of each tuned entry: a sidecar file next to each JSON, which vLLM never loads.

``{gpu}_SHRINK.provenance.json`` belongs to ``{gpu}_SHRINK.json``: ``{"schema_version": 1, "entries": {"5/3/16/4096/16":
{...}}}``, with one entry per path of keys. The table itself cannot hold these figures, because vLLM turns every key
into a number.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bo_tune.core.outcome import LONGEST_US, SHORTEST_US
from bo_tune.core.problem import Problem, problem_from_json
from bo_tune.core.space import Config
from bo_tune.errors import TableError
from bo_tune.files import resolved

PROVENANCE_SUFFIX = ".provenance.json"
PROVENANCE_SCHEMA_VERSION = 1
KEY_SEPARATOR = "/"
_KEYS = re.compile(r"[\w=.,-]{1,60}(/[\w=.,-]{1,60})*", re.ASCII)

OWN_KERNELS = "bo_tune"
"""First word of the sources of the project's own kernels."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and SHORTEST_US <= value <= LONGEST_US


_OPTIONAL = ("certificate", "joint", "in_place", "disturbed", "ended")
"""Fields that may be missing from an entry."""

_FITS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(_OPTIONAL, lambda value: value is None or isinstance(value, dict)),
    "problem": lambda value: isinstance(value, dict),
    "config": _is_numbers,
    "time_us": _is_time,
    "default_time_us": lambda value: value is None or _is_time(value),
    "costs": _is_numbers,
    "ended": lambda value: value is None or isinstance(value, str),
    "disturbed": lambda value: value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value)),
}
"""Checks of the fields that are not text."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of one tuned entry.

    Attributes:
        time_us: measured time of the config, in us.
        default_time_us: measured time of the kernel's default config, in us; None if it could not be measured.
        gpu: name as given by ``torch.cuda.get_device_name``.
        driver: version of the GPU driver, "" if unknown. The same holds for torch and triton.
        kernel_source: source of the measured kernel.
        date: ISO 8601, UTC.
        session: identifies the session that chose the config. Its studies ran side by side.
        certificate: how sure the search was that nothing better was left; None for a search without a model.
        joint: for kernels that had to agree: which kernels, on what, and the sums of their times and of their defaults'
            times in us. A single kernel of them may be slower than its default. None for a kernel that stands alone.
        in_place: if the layer was known, the facts that decided: the layer, and its times in us with each finalist.
            None if the times alone decided.
        disturbed: what disturbed measuring its study, for example other processes on the GPU; empty for no disturbance,
            None if unknown.
        ended: why the search ended (``core.conclusion.EndedBy``); None if unknown.
        costs: costs of finding the config: launched configs, launches by purpose, compiles, seconds, …; units are in
            the names.
    """

    problem: Problem
    config: Config
    time_us: float
    default_time_us: float | None
    gpu: str
    driver: str
    torch: str
    triton: str
    kernel_source: str
    date: str
    study: str
    sampler: str
    session: str
    costs: Mapping[str, float]
    certificate: Mapping[str, Any] | None = None
    joint: Mapping[str, Any] | None = None
    in_place: Mapping[str, Any] | None = None
    disturbed: Sequence[str] | None = None
    ended: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain values for JSON."""
        apart = ("problem", "config", "costs", *_OPTIONAL)
        names = [name for name in self.__slots__ if name not in apart]
        return {
            "problem": asdict(self.problem),
            "config": dict(self.config),
            **{name: getattr(self, name) for name in names},
            "kernels": "bo_tune (not an engine's)" if is_own(self.kernel_source) else self.kernel_source,
            "costs": dict(self.costs),
            "certificate": self.certificate if self.certificate is None else dict(self.certificate),
            **({} if self.joint is None else {"joint": dict(self.joint)}),
            **({} if self.in_place is None else {"in_place": dict(self.in_place)}),
            **({} if self.disturbed is None else {"disturbed": list(self.disturbed)}),
            **({} if self.ended is None else {"ended": self.ended}),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Provenance":
        """Read an entry. Unknown names are ignored.

        Raises:
            ValueError: a field is missing or has the wrong type.
        """
        entry = {**dict.fromkeys(_OPTIONAL), **entry}
        missing = [name for name in cls.__slots__ if name not in entry]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        values = {name: entry[name] for name in cls.__slots__}
        for name, value in values.items():
            if not (_FITS[name](value) if name in _FITS else isinstance(value, str)):
                raise ValueError(f"{name}: {value!r} has the wrong type or is out of bounds")
        try:
            values["problem"] = problem_from_json(values["problem"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"problem: {error}") from None
        return cls(**values)


def is_own(kernel_source: str) -> bool:
    """Say whether this is the project's own code, which no engine runs."""
    return kernel_source.partition(" ")[0] == OWN_KERNELS


def moment_of(date: object) -> datetime | None:
    """Return the moment of a date in a sidecar, or None if it is not one. Without a time zone it is UTC."""
    try:
        moment = datetime.fromisoformat(date) if isinstance(date, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def provenance_path(table: Path) -> Path:
    """Return the sidecar of a table: ``X_SHRINK.json`` → ``X_SHRINK.provenance.json``.

    For a link, the sidecar is beside the file behind it. Other links may lead to the same file.
    """
    table = resolved(table) if table.is_symlink() else table
    return table.with_name(table.name.removesuffix(".json") + PROVENANCE_SUFFIX)


def entries_of(document: Any, path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the entries of a parsed sidecar by their keys, as written.

    Raises:
        TableError: it is not a sidecar, or has another schema version.
    """
    if not isinstance(document, dict) or not isinstance(document.get("entries"), dict):
        raise TableError(f"{path}: expected an object with schema_version and entries")
    version = document.get("schema_version")
    if version != PROVENANCE_SCHEMA_VERSION:
        raise TableError(f"{path}: schema_version: expected {PROVENANCE_SCHEMA_VERSION}, got {version!r}")
    for keys, entry in document["entries"].items():
        if not _KEYS.fullmatch(keys) or not isinstance(entry, dict):
            raise TableError(f"{path}: {keys!r}: expected an entry's keys, joined by {KEY_SEPARATOR}, and an object")
    return {tuple(keys.split(KEY_SEPARATOR)): entry for keys, entry in document["entries"].items()}


def document_of(entries: Mapping[tuple[str, ...], Mapping[str, Any]]) -> dict[str, Any]:
    """Return a sidecar with these entries, in the given order."""
    joined = {KEY_SEPARATOR.join(keys): dict(entry) for keys, entry in entries.items()}
    return {"schema_version": PROVENANCE_SCHEMA_VERSION, "entries": joined}
