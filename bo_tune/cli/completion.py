"""What a shell is offered for values of options, where TAB is pressed."""

from collections.abc import Callable, Iterable
from pathlib import Path

from bo_tune.core.choices import KERNEL_SOURCES, MEMORY, SAMPLERS

DEPTH = 3
"""Levels of folders below the current one to look into."""

MOST_FOLDERS = 2000
"""Most folders to look at, so that TAB answers at once."""

Complete = Callable[[str], list[str]]


def _among(values: Iterable[str]) -> Complete:
    known = list(values)

    def complete(incomplete: str) -> list[str]:
        return [value for value in known if value.startswith(incomplete)]

    return complete


kernel_sources = _among(KERNEL_SOURCES)
samplers = _among(SAMPLERS)
routings = _among(["uniform", "zipf"])
targets = _among(["cuda:80", "cuda:86", "cuda:89", "cuda:90", "cuda:100", "cuda:103", "cuda:120"])


def kernels(incomplete: str) -> list[str]:
    """Return the kernels that studies tune."""
    from bo_tune.kernels.registry import KERNELS

    return _among(KERNELS)(incomplete)


def devices(incomplete: str) -> list[str]:
    """Return ``cuda`` and the folders of recordings near this folder."""
    folders = [f"replay:{folder}" for folder in _folders() if any(map(_is_recording, _entries(folder)))]
    return _among(["cuda", "cuda:0", "cuda:1", *folders])(incomplete)


def storages(incomplete: str) -> list[str]:
    """Return the SQLite databases of this folder, and the word for no database."""
    return _among([MEMORY, *(f"sqlite:///{path}" for path in sorted(Path().glob("*.db")))])(incomplete)


def study_files(incomplete: str) -> list[str]:
    """Return the study files near this folder, and the folders on the way to what is being typed."""
    found = [
        str(path) for folder in _folders() for path in sorted(folder.glob("*.toml")) if path.name != "pyproject.toml"
    ]
    return _among(found)(incomplete)


def shipped_names(incomplete: str) -> list[str]:
    """Return the names of what comes with the package."""
    from bo_tune.formats.shipped import shipped

    return _among(item.name for item in shipped())(incomplete)


def folder_names(incomplete: str) -> list[str]:
    """Return the names of the tuned folders that come with the package."""
    from bo_tune.formats.shipped import shipped_folder

    return _among(path.parent.name for path in shipped_folder().glob("folders/*/study.toml"))(incomplete)


def _is_recording(path: Path) -> bool:
    from bo_tune.formats.recording import SUFFIXES

    return path.name.endswith(SUFFIXES)


def _folders() -> list[Path]:
    """Return this folder and those below it, except hidden ones."""
    level, found = [Path()], [Path()]
    for _ in range(DEPTH):
        level = [child for folder in level for child in _children(folder)]
        found += level
        if len(found) > MOST_FOLDERS:
            break
    return found[:MOST_FOLDERS]


def _children(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir() and not entry.name.startswith((".", "_"))]


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
