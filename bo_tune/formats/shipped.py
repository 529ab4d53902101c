"""The study files, model configs and recordings that come with the package.

A wheel holds them in the package's folder ``studies``. A checkout holds them beside the package.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from bo_tune.errors import InputError
from bo_tune.files import os_error_text, write_atomically
from bo_tune.formats.recording import SUFFIXES

NAME = "studies"


class Kind(StrEnum):
    """The kind of a shipped item."""

    STUDY = "study file"
    MODEL = "model"
    RECORDINGS = "recordings"

    @property
    def plural(self) -> str:
        """Name of several items of the kind."""
        return self.value if self is Kind.RECORDINGS else f"{self.value}s"


@dataclass(frozen=True, slots=True)
class Shipped:
    """A study file, a model, or a folder of recordings.

    Attributes:
        name: its path in the shipped folder.
        about: a description in one sentence.
        files: all files that it needs, as paths in that folder.
    """

    name: str
    kind: Kind
    about: str
    files: tuple[str, ...]


def shipped_folder() -> Path:
    """Return the folder that holds everything that ships.

    Raises:
        InputError: this installation has none.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / NAME, package.parent / NAME):
        if (folder / "models").is_dir():
            return folder
    raise InputError("this installation of bo_tune has no study files")


@cache
def shipped() -> tuple[Shipped, ...]:
    """Return everything that ships: study files first, then models, then recordings. Raises InputError."""
    folder = shipped_folder()
    studies = [_study(path) for path in sorted(folder.glob("*.toml"))]
    models = [_model(folder, path) for path in sorted(folder.glob("models/*/config.json"))]
    recorded = sorted({path.parent for path in (folder / "recordings").rglob("*") if path.name.endswith(SUFFIXES)})
    return (*studies, *models, *(_recordings(folder, path) for path in recorded))


def chosen(names: Sequence[str]) -> list[Shipped]:
    """Return the items with some names, or all if no name is given.

    A name matches an item, a study file without its ending, and all items of a folder.

    Raises:
        InputError: nothing has this name.
    """
    found: dict[str, Shipped] = {}
    for name in names:
        plain = name.rstrip("/")
        named = [one for one in shipped() if one.name in (plain, f"{plain}.toml") or one.name.startswith(f"{plain}/")]
        if not named:
            raise InputError(
                f"{name!r}: there is no such study file, model or recording; bo-tune studies lists them all"
            )
        found |= {one.name: one for one in named}
    return list(found.values()) if names else list(shipped())


def copy_shipped(items: Sequence[Shipped], to: Path) -> tuple[list[Path], list[Path]]:
    """Copy items with all files that they need, under the same paths as here.

    Returns:
        The files that were written, and those that existed already with the same content.

    Raises:
        InputError: a file exists with other content, in which case nothing is written; or a file cannot be written.
    """
    folder = shipped_folder()
    files = sorted({file for item in items for file in item.files})
    return copy_files({to / file: folder / file for file in files})


def copy_files(sources: Mapping[Path, Path]) -> tuple[list[Path], list[Path]]:
    """Copy files to other paths, overwriting nothing.

    Args:
        sources: the file to copy, by the path of its copy.

    Returns:
        The files that were written, and those that existed already with the same content.

    Raises:
        InputError: a file exists with other content, in which case nothing is written; or a file cannot be written.
    """
    try:
        contents = {path: source.read_bytes() for path, source in sources.items()}
        missing = {path: content for path, content in contents.items() if not path.exists()}
        for path, content in contents.items():
            if path not in missing and path.read_bytes() != content:
                raise InputError(f"{path} exists with other content; choose another folder")
        for path, content in missing.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
    except OSError as error:
        raise InputError(f"{error.filename}: {os_error_text(error)}") from None
    return list(missing), [path for path in contents if path not in missing]


def _study(path: Path) -> Shipped:
    text = path.read_text()
    lines = [line for line in text.partition("\n\n")[0].splitlines() if line.startswith("#")]
    config = tomllib.loads(text).get("model", {}).get("config")
    needed = () if config is None else (config,)
    return Shipped(
        path.name, Kind.STUDY, _first_sentence(" ".join(line.lstrip("# ") for line in lines)), (path.name, *needed)
    )


def _model(folder: Path, path: Path) -> Shipped:
    (architecture,) = json.loads(path.read_text())["architectures"]
    return Shipped(_inside(folder, path.parent), Kind.MODEL, architecture, (_inside(folder, path),))


def _recordings(folder: Path, path: Path) -> Shipped:
    files = sorted(file for file in path.iterdir() if file.is_file())
    grids = sum(file.name.endswith(SUFFIXES) for file in files)
    of = " and ".join(sorted({file.name.partition(".")[0].upper() for file in files if file.name.endswith(SUFFIXES)}))
    about = f"{grids} exhaustive grids, recorded on an {of}"
    return Shipped(_inside(folder, path), Kind.RECORDINGS, about, tuple(_inside(folder, file) for file in files))


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


def _inside(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()
