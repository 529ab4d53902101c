"""SGLang's kernel modules, taken from the published wheel, for the tests that need the real ones."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

from bo_tune.kernels.sglang.operations import operation

VERSION = "0.5.23"
ROOT = Path(__file__).parents[1]
DOWNLOAD_LIMIT_S = 120
PLATFORM, PYTHON = "manylinux_2_34_x86_64", "3.11"


def standins() -> ModuleType:
    """Load ``benchmarks/sglang_standins.py``, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("sglang_standins", ROOT / "benchmarks" / "sglang_standins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sglang_folder() -> Path:
    """Return a folder to find SGLang's kernels in, or skip the test with the reason why there is none.

    That is ``.sglang`` in the repository if it holds this version, else a folder of the user's cache, into which the
    wheel's modules are put once.
    """
    folder, reason = _find_or_fetch()
    if folder is None:
        pytest.skip(reason)
    return folder


@cache
def _find_or_fetch() -> tuple[Path | None, str]:
    cached = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bo_tune" / f"sglang-{VERSION}"
    for folder in (ROOT / ".sglang", cached):
        if _is_complete(folder):
            return folder, ""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.parent / f"{cached.name}.lock"):
            if not _is_complete(cached):
                _fetch(cached)
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or ["pip failed"])[-1]
        return None, f"the wheel of SGLang {VERSION} cannot be had: {why}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"the wheel of SGLang {VERSION} cannot be had: {error}"
    return cached, ""


def _is_complete(folder: Path) -> bool:
    names = [*standins().COPIED, "sglang/__init__.py", f"sglang-{VERSION}.dist-info/METADATA"]
    return all((folder / name).is_file() for name in names)


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as downloads:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--timeout", "10"]
        what = ["--no-deps", "--only-binary=:all:", "--platform", PLATFORM, "--python-version", PYTHON]
        what += [f"sglang=={VERSION}", "-d", downloads]
        subprocess.run([*pip, *what], capture_output=True, text=True, check=True, timeout=DOWNLOAD_LIMIT_S)
        (wheel,) = Path(downloads).glob("sglang-*.whl")
        standins().build(wheel, folder)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let SGLang's files be found in a folder, and forget it all afterwards."""
    sys.path.insert(0, str(folder))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _forget()


def _forget() -> None:
    importlib.invalidate_caches()
    operation.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "sglang"]:
        del sys.modules[name]
