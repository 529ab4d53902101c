"""What a serving engine is to this package: which kernels' configs it looks up, where, and in files of which form.

An engine is one module with one class, and one line in ``engines.registry``. Whoever writes, merges or compares tuned
files (``engines.folder``) asks the engine alone what stands in them.
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
"""The words under which a config is found in its file, outermost first."""

WrittenConfig = Mapping[str, int | None]
"""A config as it stands in a file; null for a parameter left open."""

Entries = Mapping[Keys, WrittenConfig]
"""What a file of tuned configs holds."""


class Address(NamedTuple):
    """Where an engine looks a problem's config up."""

    file_name: str
    keys: Keys


@dataclass(frozen=True, slots=True)
class TunedEntry:
    """One config to be written.

    Attributes:
        file_name: of the file it belongs to, see ``Engine.address``; so are the keys.
        provenance: where it came from; None where nobody knows.
    """

    file_name: str
    keys: Keys
    config: WrittenConfig
    provenance: Provenance | None


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine needs in a folder besides what was tuned.

    Attributes:
        entries: to be written, too.
        notes: lines that say what these are.
    """

    entries: Sequence[TunedEntry] = ()
    notes: Sequence[str] = ()


class Engine(ABC):
    """A serving engine, or one family of the files that it loads."""

    name: ClassVar[str]
    serves: ClassVar[EngineChoice] = EngineChoice.VLLM
    """Whose lookups these are."""
    kernels: ClassVar[Collection[str]]
    """Names of the kernels whose configs it looks up."""
    patterns: ClassVar[Sequence[str]]
    """What the names of its files look like, for people."""
    folder_variable: ClassVar[str | None] = None
    """The variable that names the folder of its files where it is started; None where something else does."""

    @abstractmethod
    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        """Return where a problem's config is looked up on a GPU."""

    @abstractmethod
    def gpu_in(self, file_name: str) -> str | None:
        """Return the GPU that the name of a file speaks of, as it is written there; None for a file of others."""

    def subfolder(self, triton: str | None) -> Path:
        """Return where in the folder that is named to the engine its files are; by default there itself.

        Args:
            triton: the release with which their configs were measured; None where that is not known.
        """
        return Path()

    @abstractmethod
    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        """Read what a file holds. Raises TableError, in one line, with the file and the place in it."""

    @abstractmethod
    def render(self, entries: Entries) -> bytes:
        """Return the text of a file that holds these entries."""

    def launchable(self, problem: Problem, config: Config) -> Config:
        """Return a tuned config with what the engine must find beside it, though there is nothing to choose."""
        return config

    def as_written(self, config: WrittenConfig) -> WrittenConfig:
        """Return a config with its parameters in the order in which they are written."""
        return config

    def missing(self, entries: Entries) -> list[str]:
        """Name the lookups at which an engine with such a file stops, as far as the file alone tells."""
        return []

    @abstractmethod
    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        """Return the problems whose configs it looks up for a model, each with the layers that ask. Raises ModelError.

        Args:
            kernels: problems of these alone; None for all that serve the model.
        """

    def completion(self, asked: Collection[Problem], tuned: Collection[str], gpu: GpuInfo, folder: Path) -> Completion:
        """Return what a folder needs besides what was tuned, lest the engine be slower with it than without.

        Args:
            asked: the problems whose configs the engine looks up, whatever of them was tuned.
            tuned: names of the kernels that were.

        Raises:
            TableError: a file of the folder is malformed.
            InputError: the installed engine does not tell what it runs without tuned files.
        """
        return Completion()


def by_number(keys: Keys) -> tuple[tuple[int, str], ...]:
    """Return what sorts keys by their numbers."""
    return tuple((int(key) if key.isdecimal() else 0, key) for key in keys)
