"""Tells which SGLang is installed, and whether its LoRA kernels can be tuned. Imports neither torch nor SGLang."""

from importlib import metadata
from pathlib import Path

from bo_tune.errors import InputError
from bo_tune.kernels.plain_text import files_of

PACKAGE = "sglang"

FOLDER = "kernels/ops/lora/dense"
SHRINK_FILE, EXPAND_FILE = f"{FOLDER}/chunked_sgmv_shrink.py", f"{FOLDER}/chunked_sgmv_expand.py"
LOOKUP_FILE = f"{FOLDER}/lora_tuning_config.py"
"""The file that looks up configs. The shipped files are in a folder beside it."""


class SglangError(InputError):
    """The installed SGLang's kernels cannot be tuned. The message names its version and the obstacle."""


def unavailable() -> str | None:
    """Say why the installed SGLang's kernels cannot be tuned, or None if no reason is known."""
    try:
        for name in (SHRINK_FILE, EXPAND_FILE, LOOKUP_FILE):
            file_of(name)
    except SglangError as error:
        return str(error)
    return None


def file_of(name: str) -> Path:
    """Return a file of the installed SGLang, by its path below the package. Raises SglangError if it is missing."""
    (file,) = files_of([name], PACKAGE)
    if file is not None:
        return file
    if version() is None and not any(files_of(["__init__.py"], PACKAGE)):
        raise SglangError("SGLang is not installed: pip install --no-deps sglang==0.5.23")
    raise refusal(f"it has no {name}, where its csgmv kernels should be")


def version() -> str | None:
    """Return the version of the installed SGLang; None if it is unknown."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def refusal(problem: str) -> SglangError:
    """Return the error for something that the installed SGLang lacks or does differently."""
    return SglangError(f"sglang {version() or '(version unknown)'}: {problem}")
