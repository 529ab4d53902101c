"""Where each tuned entry came from: a sidecar file next to each JSON, which vLLM never loads.

``{gpu}_SHRINK.provenance.json`` belongs to ``{gpu}_SHRINK.json``: ``{"schema_version": 1, "entries": {"5/3/16/4096/16":
{...}}}``, one entry per path of keys. The figures cannot live in the table itself: vLLM turns every key into a number.
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
"""How the sources of the project's own kernels begin."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and SHORTEST_US <= value <= LONGEST_US


_OPTIONAL = ("certificate", "joint", "in_place", "disturbed", "ended")
"""Fields that an entry may leave out."""

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
"""Checks of the fields that are no text."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one tuned entry came from.

    Attributes:
        time_us: measured time of the config, in us.
        default_time_us: measured time of the kernel's default config, in us; None where it could not be measured.
        gpu: as ``torch.cuda.get_device_name`` gives it.
        driver: version of the GPU driver, "" where unknown; so are torch and triton.
        kernel_source: which code was measured.
        date: ISO 8601, UTC.
        session: identifies the session that chose it; its studies ran side by side.
        certificate: how sure the search was that nothing better was left; None for a search without a model.
        joint: where kernels had to agree: which, on what, the sum of their times and that of their defaults' in us; one
            kernel alone may be slower than its default. None for a kernel that stands alone.
        in_place: what decided where the layer was known: the layer, and its times in us with each finalist; None where
            the times alone did.
        disturbed: what disturbed measuring its study, other processes on the GPU for example; empty where nothing did,
            None where that is not known.
        ended: why the search ended (``core.conclusion.EndedBy``); None where that is not known.
        costs: what finding it cost: launched configs, launches by purpose, compiles, seconds, …; units in the names.
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
        """Return the entry as it is written."""
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
        """Read an entry; names it does not know are passed over.

        Raises:
            ValueError: something is missing or of the wrong type.
        """
        entry = {**dict.fromkeys(_OPTIONAL), **entry}
        missing = [name for name in cls.__slots__ if name not in entry]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        values = {name: entry[name] for name in cls.__slots__}
        for name, value in values.items():
            if not (_FITS[name](value) if name in _FITS else isinstance(value, str)):
                raise ValueError(f"{name}: {value!r} is of the wrong type or beyond its bounds")
        try:
            values["problem"] = problem_from_json(values["problem"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"problem: {error}") from None
        return cls(**values)


def is_own(kernel_source: str) -> bool:
    """Say whether this is the project's own code, which no engine runs."""
    return kernel_source.partition(" ")[0] == OWN_KERNELS


def moment_of(date: object) -> datetime | None:
    """Return the moment that a date in a sidecar says, or None where it says none. Without a time zone it is UTC."""
    try:
        moment = datetime.fromisoformat(date) if isinstance(date, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def provenance_path(table: Path) -> Path:
    """Return the sidecar of a table: ``X_SHRINK.json`` → ``X_SHRINK.provenance.json``.

    That of a link is beside the file that it leads to, which other links may lead to as well.
    """
    table = resolved(table) if table.is_symlink() else table
    return table.with_name(table.name.removesuffix(".json") + PROVENANCE_SUFFIX)


def entries_of(document: Any, path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the entries of a parsed sidecar by their keys, as written.

    Raises:
        TableError: it is no sidecar, or one of another schema version.
    """
    if not isinstance(document, dict) or not isinstance(document.get("entries"), dict):
        raise TableError(f"{path}: expected an object with schema_version and entries")
    version = document.get("schema_version")
    if version != PROVENANCE_SCHEMA_VERSION:
        raise TableError(f"{path}: schema_version: expected {PROVENANCE_SCHEMA_VERSION}, got {version!r}")
    for keys, entry in document["entries"].items():
        if not _KEYS.fullmatch(keys) or not isinstance(entry, dict):
            raise TableError(
                f"{path}: {keys!r}: expected the keys of an entry, {KEY_SEPARATOR} between them, and an object"
            )
    return {tuple(keys.split(KEY_SEPARATOR)): entry for keys, entry in document["entries"].items()}


def document_of(entries: Mapping[tuple[str, ...], Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sidecar that holds these entries, in the order given."""
    joined = {KEY_SEPARATOR.join(keys): dict(entry) for keys, entry in entries.items()}
    return {"schema_version": PROVENANCE_SCHEMA_VERSION, "entries": joined}
