"""The results of a check, as pure data and as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.engines.vllm.lookup import Crash, Found

M = "m"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fact that stops an engine, spoils its output, or slows it down in silence.

    Attributes:
        file: name of the file; empty for the folder as a whole.
        place: the keys that lead to it, as they stand in the file. Lookups of any m are combined under ``*``.
        reason: what is wrong, in one line.
    """

    file: str
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """One lookup of the engine and its result.

    Attributes:
        layers: the layers that ask.
        file: name of the file that is searched.
        asked: the number asked for at each level, outermost first.
        found: the result; None without a usable file.
        faults: faults of the lookup; empty if there is none.
    """

    problem: Problem
    layers: tuple[str, ...]
    file: str
    asked: Mapping[str, int]
    found: Found | Crash | None
    faults: tuple[Fault, ...] = ()

    @property
    def m(self) -> int:
        """Tokens in the step."""
        return self.asked[M]

    @property
    def nearest_m(self) -> int | None:
        """The key m of the neighbour whose config is taken; None for an exact or faulty lookup."""
        if self.faults or not isinstance(self.found, Found) or M not in self.found.nearest:
            return None
        return int(self.found.keys[list(self.asked).index(M)])

    @property
    def status(self) -> str:
        """``exact``, ``nearest m`` or ``fault``."""
        return "fault" if self.faults else "exact" if self.nearest_m is None else "nearest m"

    def to_json(self) -> dict[str, Any]:
        """Return the lookup as plain values."""
        keys = self.found.keys if self.found else ()
        return {
            "kernel": self.problem.kernel, "layers": list(self.layers), "file": self.file, "asked": dict(self.asked),
            "status": self.status, "keys": list(keys), "fault": self.faults[0].reason if self.faults else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """The results of a check.

    Attributes:
        gpu_file_name: the GPU's name as in the names of LoRA files.
        gpu_name: name as given by ``torch.cuda.get_device_name``; None if only LoRA files name the GPU.
        gpu: the GPU; None if its name is unknown, so that shared memory was not checked.
        general: faults of the files, or of the folder, that do not depend on lookups.
        note: options with which the engine must be started for these to be all lookups.
    """

    folder: Path
    gpu_file_name: str
    gpu_name: str | None
    gpu: GpuInfo | None
    lookups: tuple[Lookup, ...]
    general: tuple[Fault, ...]
    note: str | None = None

    @cached_property
    def faults(self) -> dict[Fault, tuple[Lookup, ...]]:
        """Every fault once, with the lookups that meet it."""
        met: dict[Fault, list[Lookup]] = {fault: [] for fault in self.general}
        for item in self.lookups:
            for fault in item.faults:
                met.setdefault(fault, []).append(item)
        return {fault: tuple(items) for fault, items in met.items()}

    def count(self, status: str) -> int:
        """Return the number of lookups with a status."""
        return sum(item.status == status for item in self.lookups)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "folder": str(self.folder),
            "gpu": self.gpu.name if self.gpu else None,
            "counts": {status: self.count(status) for status in ("exact", "nearest m", "fault")},
            "faults": [
                {
                    "file": fault.file,
                    "place": fault.place,
                    "reason": fault.reason,
                    "m": sorted({item.m for item in met}),
                    "layers": sorted({layer for item in met for layer in item.layers}),
                }
                for fault, met in self.faults.items()
            ],
            "lookups": [item.to_json() for item in self.lookups],
        }


def place_of(keys: Iterable[str]) -> str:
    """Format keys: ``5/3/16/4096/16``."""
    return "/".join(keys)
