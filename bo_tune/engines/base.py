"""The interface of a serving engine: the kernels whose configs it looks up, the places, and the file format.

An engine is one module with one class, and one line in ``engines.registry``. Code that writes, merges or compares tuned
files (``engines.folder``) asks only the engine about their contents.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from bo_tune.core.choices import EngineChoice
from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.provenance import Provenance

Keys = tuple[str, ...]
"""The keys under which a config is found in its file, outermost first."""

WrittenConfig = Mapping[str, int | None]
"""A config as it stands in a file. If a parameter is not set, its value is null."""

Entries = Mapping[Keys, WrittenConfig]
"""The contents of a file of tuned configs."""


class Address(NamedTuple):
    """The file and keys under which an engine looks up a problem's config."""

    file_name: str
    keys: Keys


@dataclass(frozen=True, slots=True)
class TunedEntry:
    """One config to write.

    Attributes:
        file_name: name of its file (see ``Engine.address``).
        keys: keys in that file.
        provenance: origin of the config; None if unknown.
    """

    file_name: str
    keys: Keys
    config: WrittenConfig
    provenance: Provenance | None


@dataclass(frozen=True, slots=True)
class Completion:
    """Entries that an engine needs in a folder besides the tuned ones.

    Attributes:
        entries: further entries to write.
        notes: lines that describe them.
    """

    entries: Sequence[TunedEntry] = ()
    notes: Sequence[str] = ()


class Engine(ABC):
    """A serving engine, or one family of the files that it loads."""

    name: ClassVar[str]
    serves: ClassVar[EngineChoice] = EngineChoice.VLLM
    """The engine that makes these lookups."""
    kernels: ClassVar[Collection[str]]
    """Names of the kernels whose configs it looks up."""
    patterns: ClassVar[Sequence[str]]
    """Patterns of the names of its files, for people."""
    folder_variable: ClassVar[str | None] = None
    """Environment variable that names the folder of its files to the engine; None if the engine has none."""

    @abstractmethod
    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        """Return the place where a problem's config is looked up on a GPU."""

    @abstractmethod
    def gpu_in(self, file_name: str) -> str | None:
        """Return the GPU in the name of a file, as written there; None if the file is not this engine's."""

    def subfolder(self, triton: str | None) -> Path:
        """Return the subfolder of the engine's folder that holds its files; by default the folder itself.

        Args:
            triton: the Triton release with which the configs were measured; None if unknown.
        """
        return Path()

    @abstractmethod
    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        """Return the contents of a file. Raises TableError, in one line, with the file and the place in it."""

    @abstractmethod
    def render(self, entries: Entries) -> bytes:
        """Return the text of a file with these entries."""

    def launchable(self, problem: Problem, config: Config) -> Config:
        """Return a tuned config with any fixed parameters that the engine must find beside it."""
        return config

    def as_written(self, config: WrittenConfig) -> WrittenConfig:
        """Return a config with its parameters in writing order."""
        return config

    def missing(self, entries: Entries) -> list[str]:
        """Name the lookups at which an engine with such a file stops, as far as the file alone tells."""
        return []

    @abstractmethod
    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        """Return the problems whose configs the engine looks up for a model, each with its layers. Raises ModelError.

        Args:
            kernels: only problems of these kernels; None for all that serve the model.
        """

    def completion(self, asked: Collection[Problem], tuned: Collection[str], gpu: GpuInfo, folder: Path) -> Completion:
        """Return entries that a folder needs besides the tuned ones, so that it does not slow down the engine.

        Args:
            asked: all problems whose configs the engine looks up, tuned or not.
            tuned: names of the tuned kernels.

        Raises:
            TableError: a file of the folder is malformed.
            InputError: the installed engine does not tell what it runs without tuned files.
        """
        return Completion()


def by_number(keys: Keys) -> tuple[tuple[int, str], ...]:
    """Return a sort key that orders keys by their numbers."""
    return tuple((int(key) if key.isdecimal() else 0, key) for key in keys)
