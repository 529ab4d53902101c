"""Tuned folders that come with the package: what there is, and which of them answers every lookup of a model.

``studies/folders`` has a folder for each model. It holds the study file that the model was tuned by, and the files of
each GPU that somebody has tuned it on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

from bo_tune.core.choices import EngineChoice
from bo_tune.engines.check import Report, check_folder
from bo_tune.engines.folder import measured, table_paths
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.provenance import PROVENANCE_SUFFIX, entries_of, provenance_path
from bo_tune.errors import InputError
from bo_tune.files import parse_json, read_file
from bo_tune.formats.shipped import copy_files, shipped_folder
from bo_tune.formats.study_file import load_study_file

FOLDERS = "folders"
STUDY = "study.toml"


@dataclass(frozen=True, slots=True)
class ReadyFolder:
    """The tuned files of a model for one GPU.

    Attributes:
        name: of the model's folder.
        gpu: name as given by ``torch.cuda.get_device_name``.
        model: the model and the engines that the files were tuned for.
        tables: the files, without their sidecars.
        entries: number of configs in them.
        kernel_sources: which kernels were measured, as ``vllm 0.33.0``.
        toolchains: versions of Triton and torch that they were measured with.
        tuned_at: when the last entry was measured.
        speed_up: of the entries over the kernels' default configs, geometric mean; None if no default was measured.
        expected_loss: mean of the certificates' expected losses; None if no certificate tells.
    """

    name: str
    gpu: str
    model: ModelStudy
    tables: tuple[Path, ...]
    entries: int
    kernel_sources: tuple[str, ...]
    toolchains: tuple[str, ...]
    tuned_at: datetime
    speed_up: float | None
    expected_loss: float | None

    @property
    def folder(self) -> Path:
        """The folder that holds the files."""
        return self.tables[0].parent

    def check(self, model: ModelStudy) -> Report:
        """Walk every lookup of a model through the files."""
        return check_folder(self.folder, model, gpu=self.gpu, max_batched_tokens=model.most_tokens)

    def copy(self, to: Path) -> tuple[list[Path], list[Path]]:
        """Copy the files with their sidecars. Returns what was written, and what was there. Raises InputError."""
        files = [path for table in self.tables for path in (table, provenance_path(table))]
        return copy_files({to / path.name: path for path in files})

    def to_json(self) -> dict[str, Any]:
        """Return the folder as plain values for JSON."""
        return {
            "name": self.name,
            "gpu": self.gpu,
            "tensor_parallel": self.model.tensor_parallel,
            "max_loras": list(self.model.max_loras),
            "ranks": list(self.model.ranks),
            "m": list(self.model.ms),
            "files": [path.name for path in self.tables],
            "entries": self.entries,
            "kernel_sources": list(self.kernel_sources),
            "toolchains": list(self.toolchains),
            "tuned_at": self.tuned_at.isoformat(),
            "speed_up": self.speed_up,
            "expected_loss": self.expected_loss,
        }


def ready_folders(names: Sequence[str] = (), gpu: str | None = None) -> list[ReadyFolder]:
    """Return the folders with some names, or all; one for each model and GPU.

    Args:
        gpu: a part of the GPU's name; None for all.

    Raises:
        InputError: there is no folder of a name, nobody has tuned it, or not for the GPU.
    """
    folder = shipped_folder() / FOLDERS
    there = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{STUDY}"))}
    for name in names:
        if name not in there:
            raise InputError(f"{name!r}: no tuned folder has this name; bo-tune folders lists them all")
    found = [one for name in names or there for one in _of_model(there[name])]
    chosen = [one for one in found if gpu is None or gpu.lower() in one.gpu.lower()]
    if not found:
        raise InputError(f"{', '.join(names)}: nobody has tuned this on any GPU yet: bo-tune tune does")
    if not chosen:
        gpus = ", ".join(sorted({one.gpu for one in found}))
        raise InputError(f"--gpu {gpu}: there are tuned folders for {gpus} alone")
    return chosen


def fitting(folders: Iterable[ReadyFolder], model: ModelStudy) -> list[tuple[ReadyFolder, Report]]:
    """Return those of some folders that answer every lookup of a model, the one with the most exact answers first.

    They need not be named after the model: another one of the same sizes makes the same lookups.

    Raises:
        InputError: none does, and the message says how many lookups the nearest one answers; or another engine than
            vLLM serves the model.
    """
    if model.engine is not EngineChoice.VLLM:
        raise InputError(f"--engine {model.engine}: the tuned folders that come with bo_tune are for vLLM alone")
    walked = [(one, one.check(model)) for one in folders]
    fit = [(one, report) for one, report in walked if not report.faults]
    if fit:
        return sorted(fit, key=lambda pair: (-pair[1].count("exact"), -pair[0].tuned_at.timestamp()))
    nearest, report = min(walked, key=lambda pair: pair[1].count("fault") / max(len(pair[1].lookups), 1))
    lacks, asked = report.count("fault"), len(report.lookups)
    close = f"; {nearest.name} on {nearest.gpu} answers {asked - lacks:,} of {asked:,}" if lacks < asked else ""
    raise InputError(f"no tuned folder answers every lookup of this engine{close}: tune it with bo-tune tune")


def _of_model(folder: Path) -> list[ReadyFolder]:
    """Return what a model's folder holds, by GPU."""
    model = load_study_file(folder / STUDY).model
    if model is None:
        raise InputError(f"{folder / STUDY}: names no model")
    by_gpu: dict[str, dict[Path, Sequence[Mapping[str, Any]]]] = {}
    tables = table_paths(folder) if any(folder.glob(f"*{PROVENANCE_SUFFIX}")) else []
    for table in tables:
        sidecar = provenance_path(table)
        entries = list(entries_of(parse_json(read_file(sidecar)), sidecar).values())
        by_gpu.setdefault(entries[0]["gpu"], {})[table] = entries
    return [_ready(folder.name, gpu, model, files) for gpu, files in sorted(by_gpu.items())]


def _ready(name: str, gpu: str, model: ModelStudy, files: Mapping[Path, Sequence[Mapping[str, Any]]]) -> ReadyFolder:
    entries = [entry for of_file in files.values() for entry in of_file]
    gains = [log(one["default_time_us"] / one["time_us"]) for one in entries if one["default_time_us"]]
    losses = [loss for one in entries if (loss := (one.get("certificate") or {}).get("expected_loss")) is not None]
    return ReadyFolder(
        name,
        gpu,
        model,
        tuple(files),
        len(entries),
        tuple(sorted({one["kernel_source"].partition(" (")[0] for one in entries})),
        tuple(sorted({f"triton {one['triton']}, torch {one['torch']}" for one in entries})),
        max(map(measured, entries)),
        exp(fmean(gains)) if gains else None,
        fmean(losses) if losses else None,
    )
