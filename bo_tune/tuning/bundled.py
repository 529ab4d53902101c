"""What the package brings along: trials of recorded grids, which teach studies of other problems from the first on.

Of each grid that the project holds (``studies/recordings``) those trials are kept that a study would learn from, fast
ones denser than slow ones; ``studies/bundle.py`` writes them anew.
"""

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bo_tune.core.problem import GpuInfo
from bo_tune.core.space import Config
from bo_tune.core.study_name import StudyName

FILE = "bundled.json.gz"


@dataclass(frozen=True)
class BundledGrid:
    """Trials of one recorded grid.

    Attributes:
        name: of the study they would be of.
        configs: of the trials.
        times_us: their times, in us.
    """

    name: StudyName
    gpu: GpuInfo
    configs: Sequence[Config]
    times_us: Sequence[float]

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds of it."""
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
        """Read what ``to_json`` made of a grid."""
        configs = [dict(zip(stored["parameters"], values, strict=True)) for values in stored["configs"]]
        name, gpu = StudyName.from_json(stored["name"]), GpuInfo.from_json(stored["gpu"])
        return cls(name, gpu, configs, stored["times_us"])


def packed(grids: Iterable[BundledGrid]) -> bytes:
    """Return the file of grids, the same whenever it is written."""
    text = json.dumps([grid.to_json() for grid in grids], separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


@cache
def bundled_grids() -> tuple[BundledGrid, ...]:
    """Return the grids that came with the package."""
    stored = json.loads(gzip.decompress(files("bo_tune.tuning").joinpath(FILE).read_bytes()))
    return tuple(map(BundledGrid.from_json, stored))
