"""Trials that come with the package and teach studies of other problems from the start.

Of each grid that the project holds (``studies/recordings``), the bundle keeps the trials that a study would learn from,
with fast ones denser than slow ones. Of the studies by which the tuned folders were made, it keeps those that are not
much like another. ``studies/bundle.py`` writes both.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from bo_tune.core.problem import GpuInfo
from bo_tune.core.space import Config
from bo_tune.core.study_name import StudyName

GRIDS = "bundled.json.gz"
"""Of exhaustive grids."""

SEARCHES = "experience.json.gz"
"""Of searches, whose trials tell little away from the optimum."""


@dataclass(frozen=True)
class BundledGrid:
    """Trials of one recorded grid, or of a search of one.

    Attributes:
        name: of the study to which they would belong.
        configs: of the trials.
        times_us: their times, in us.
    """

    name: StudyName
    gpu: GpuInfo
    configs: Sequence[Config]
    times_us: Sequence[float]

    def to_json(self) -> dict[str, Any]:
        """Return the grid as the file holds it."""
        names = sorted(self.configs[0])
        return {
            "name": self.name.to_json(),
            "gpu": self.gpu.to_json(),
            "parameters": names,
            "configs": [[config[name] for name in names] for config in self.configs],
            "times_us": list(self.times_us),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "BundledGrid":
        """Read a grid that ``to_json`` wrote."""
        configs = [dict(zip(stored["parameters"], values, strict=True)) for values in stored["configs"]]
        name, gpu = StudyName.from_json(stored["name"]), GpuInfo.from_json(stored["gpu"])
        return cls(name, gpu, configs, stored["times_us"])


def packed(grids: Iterable[BundledGrid]) -> bytes:
    """Return the content of the file for these grids. The same grids give the same bytes."""
    text = json.dumps([grid.to_json() for grid in grids], separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


def unpacked(file: Traversable) -> Iterator[BundledGrid]:
    """Yield what a file of ``packed`` grids holds."""
    yield from map(BundledGrid.from_json, json.loads(gzip.decompress(file.read_bytes())))


@cache
def bundled_grids() -> tuple[BundledGrid, ...]:
    """Return what came with the package: grids first, then searches."""
    return tuple(grid for name in (GRIDS, SEARCHES) for grid in unpacked(files("bo_tune.tuning") / name))
