"""Compares a tuned folder with another, such as an exhaustive search's: each entry's regret, and each search's cost."""

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from math import exp, log
from pathlib import Path
from typing import Any

from bo_tune.core.choices import GRID
from bo_tune.core.conclusion import SHARED, Decision
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config
from bo_tune.engines.base import Keys, by_number
from bo_tune.engines.folder import flat_configs, read_folder, read_provenance
from bo_tune.engines.provenance import Provenance
from bo_tune.engines.registry import address_of, engine_of_file, is_looked_up
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.tuning.joint.choice import best_recorded_us

Entry = tuple[str, Keys]
"""File name and keys of one config."""

TOTALS = ("launched_configs", "launches", "compiles", "compile_s")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One entry in both folders. Times in us; None if not known.

    Attributes:
        tuned_us: time of the tuned config: recorded if there is a recording, else as its search measured it.
        grid_us: time of the exhaustive search's config, likewise.
        best_us: the smallest recorded time of the grid, if there is a recording.
        regret_percent: tuned over the best of the grid (over ``grid_us`` without a recording), minus one.
        counted_in: name of the entry that adds up this one and others, if their kernels must agree. That entry has the
            regret, and a ``best_us`` of configs that agree.
    """

    file: str
    keys: Keys
    tuned: Config | None
    grid: Config | None
    tuned_us: float | None
    grid_us: float | None
    best_us: float | None
    default_us: float | None
    regret_percent: float | None
    counted_in: str | None = None

    @property
    def entry(self) -> Entry:
        """File name and keys of the entry."""
        return self.file, self.keys


@dataclass(frozen=True, slots=True)
class Side:
    """One of the folders, as far as its sidecars describe the entries that both folders have.

    Attributes:
        samplers: names of the samplers that proposed their configs; empty if not known.
        totals: what finding them cost, by figure. Without ``wall_s`` if the sessions found other entries too.
    """

    samplers: tuple[str, ...] = ()
    totals: Mapping[str, float] = field(default_factory=dict)

    @property
    def exhaustive(self) -> bool:
        """Whether all of them were found by trying every config."""
        return self.samplers == (GRID,)

    def __str__(self) -> str:
        if not self.samplers:
            return "search of unknown origin"
        return "exhaustive search" if self.exhaustive else f"search by {', '.join(self.samplers)}"


@dataclass(frozen=True, slots=True)
class Comparisons:
    """All entries, and both searches.

    Attributes:
        entries: of either folder.
        common: how many entries both folders have.
    """

    entries: Sequence[Comparison]
    tuned: Side
    grid: Side
    common: int

    @property
    def is_regret(self) -> bool:
        """Whether the comparison is with the best of all configs, as recorded or found by an exhaustive search.

        Otherwise it is with the result of another search, which may have missed the best too.
        """
        settled = [entry.best_us is not None for entry in self.entries if entry.regret_percent is not None]
        return self.grid.exhaustive or (bool(settled) and all(settled))

    @property
    def ratios(self) -> dict[str, float]:
        """The second search's figures over the first's, for the entries that both have. Only figures that both know."""
        grid = self.grid.totals
        return {name: grid[name] / n for name, n in self.tuned.totals.items() if n and name in grid}

    @property
    def regrets(self) -> list[float]:
        """Regrets of the entries that have one, in percent."""
        return [e.regret_percent for e in self.entries if e.regret_percent is not None]

    @property
    def gains(self) -> list[float]:
        """Default time over tuned time of the first folder's entries, or of sums if kernels must agree."""
        return [e.default_us / e.tuned_us for e in self.entries if e.default_us and e.tuned_us and not e.counted_in]

    @property
    def speed_up(self) -> float | None:
        """Geometric mean of the gains."""
        logs = list(map(log, self.gains))
        return exp(sum(logs) / len(logs)) if logs else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        regrets = self.regrets
        return {
            "entries": [{**asdict(entry), "keys": list(entry.keys)} for entry in self.entries],
            "common_entries": self.common,
            "searches": {"tuned": str(self.tuned), "grid": str(self.grid)},
            "totals": {
                "tuned": dict(self.tuned.totals),
                "grid": dict(self.grid.totals),
                "grid_over_tuned": self.ratios,
            },
            "mean_regret_percent": sum(regrets) / len(regrets) if regrets else None,
            "max_regret_percent": max(regrets, default=None),
            "geomean_speed_up_over_default": self.speed_up,
        }


def compare(tuned_folder: Path, grid_folder: Path, recordings: Iterable[Recording] = ()) -> Comparisons:
    """Compare two folders of tuned JSON, entry by entry.

    Raises:
        TableError: a folder holds no table, or a malformed one.
    """
    tuned, grid = _Folder.read(tuned_folder), _Folder.read(grid_folder)
    recorded: dict[Entry, Recording] = {
        address_of(r.problem, r.gpu): r for r in recordings if is_looked_up(r.problem.kernel)
    }
    keys = {**grid.configs, **tuned.configs}
    entries = [
        _compare(entry, tuned, grid, recorded.get(entry))
        for entry in sorted(keys, key=lambda e: (e[0], by_number(e[1])))
    ]
    problems = {entry: origin.problem for origins in (tuned.origins, grid.origins) for entry, origin in origins.items()}
    problems |= {entry: recording.problem for entry, recording in recorded.items()}
    joint = {entry: (origin.joint or {}).get("decided_by") for entry, origin in tuned.origins.items()}
    decided = {entry: Decision.from_json(decided_by).value for entry, decided_by in joint.items() if decided_by}
    common = tuned.configs.keys() & grid.configs.keys()
    return Comparisons(
        _with_sums(entries, problems, recorded, decided), tuned.side(common), grid.side(common), len(common)
    )


def _with_sums(
    entries: Sequence[Comparison],
    problems: Mapping[Entry, Problem],
    recorded: Mapping[Entry, Recording],
    decided: Mapping[Entry, int],
) -> list[Comparison]:
    """Add an entry for each group of kernels that must agree: the sum of their times."""
    groups: dict[Hashable, list[Comparison]] = {}
    for one in entries:
        problem = problems.get(one.entry)
        group = kernel_spec(problem.kernel).joint_group(problem) if problem else None
        if group is not None:
            groups.setdefault((gpu_of(one.file), group), []).append(one)
    parts: dict[Entry, str] = {}
    sums = []
    for members in groups.values():
        if len(members) > 1:
            recordings = [recorded[one.entry] for one in members if one.entry in recorded]
            sums.append(_sum_of(members, recordings, decided.get(members[0].entry)))
            parts |= {one.entry: sums[-1].file for one in members}
    counted = [replace(one, counted_in=parts[one.entry], regret_percent=None) for one in entries if one.entry in parts]
    by_entry = {one.entry: one for one in [*entries, *counted]}
    return [*by_entry.values(), *sums]


def _sum_of(group: Sequence[Comparison], recordings: Sequence[Recording], decided: int | None) -> Comparison:
    """Add up the entries of kernels that must agree.

    If all their recordings are there, these give the best configs that agree, under the value that other kernels
    decided on, if they did.
    """
    tuned_us, grid_us, default_us = (
        sum(times) if all(times := [getattr(entry, name) for entry in group]) else None
        for name in ("tuned_us", "grid_us", "default_us")
    )
    best_us = best_recorded_us(recordings, decided) if len(recordings) == len(group) else None
    against = best_us or grid_us
    shared: list[Config | None] = []
    for configs in ([entry.tuned for entry in group], [entry.grid for entry in group]):
        values = {config[SHARED] for config in configs if config is not None}
        shared.append({SHARED: values.pop()} if len(values) == 1 and None not in configs else None)
    name = f"{gpu_of(group[0].file)}, sum of {len(group)} kernels"
    regret = 100.0 * (tuned_us / against - 1.0) if tuned_us and against else None
    return Comparison(name, group[0].keys, shared[0], shared[1], tuned_us, grid_us, best_us, default_us, regret)


def gpu_of(file: str) -> str:
    """Return the GPU with which a table's file name begins."""
    engine = engine_of_file(file)
    return (engine.gpu_in(file) if engine else None) or file


@dataclass(frozen=True, slots=True)
class _Folder:
    """The configs of a folder, and their origins as far as its sidecars tell."""

    configs: Mapping[Entry, Config]
    origins: Mapping[Entry, Provenance]

    @classmethod
    def read(cls, folder: Path) -> "_Folder":
        tables = read_folder(folder)
        configs = flat_configs(tables)
        origins = {(name, keys): o for name in tables for keys, o in read_provenance(folder / name).items()}
        return cls(configs, {entry: o for entry, o in origins.items() if dict(o.config) == configs.get(entry)})

    def time_us(self, entry: Entry) -> float | None:
        origin = self.origins.get(entry)
        return origin.time_us if origin else None

    def side(self, entries: Set[Entry]) -> Side:
        """Return what the sidecars of some entries say about their search, with each session counted once."""
        origins = [origin for entry, origin in self.origins.items() if entry in entries]
        if not origins:
            return Side()
        totals = {name: sum(o.costs.get(name, 0) for o in origins) for name in TOTALS}
        sessions = {o.session: o.costs.get("session_wall_s", 0.0) for o in origins}
        others = {origin.session for entry, origin in self.origins.items() if entry not in entries}
        if not others & sessions.keys():
            # Studies run side by side, so only the time of whole sessions tells how long these entries took.
            totals["wall_s"] = sum(sessions.values())
        return Side(tuple(sorted({origin.sampler for origin in origins})), totals)


def _compare(entry: Entry, tuned: _Folder, grid: _Folder, recording: Recording | None) -> Comparison:
    def time_us(folder: _Folder) -> float | None:
        config = folder.configs.get(entry)
        if config is None or recording is None:
            return folder.time_us(entry) if config is not None else None
        known = recording.entry(config) is not None or dict(config) == recording.default_config
        return recording.time_us(config) if known else None

    tuned_us, grid_us = time_us(tuned), time_us(grid)
    best_us = recording.best_time_us if recording else None
    against = best_us or grid_us
    if recording is not None:  # from the grid if it has the default, since late repetitions do not count there
        default_us = recording.time_us(recording.default_config)
    else:
        origin = tuned.origins.get(entry)
        default_us = origin.default_time_us if origin else None
    same = tuned.configs.get(entry) == grid.configs.get(entry) and best_us is None
    regret = 100.0 * (tuned_us / against - 1.0) if tuned_us and against else None
    return Comparison(
        entry[0],
        entry[1],
        tuned.configs.get(entry),
        grid.configs.get(entry),
        tuned_us,
        grid_us,
        best_us,
        default_us,
        0.0 if same and regret is not None else regret,
    )
