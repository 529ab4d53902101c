"""vLLM's kernel modules, taken from the published wheel, for the tests that need the real ones."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

from bo_tune.kernels.vllm.operations import operation

VERSION = "0.33.0"
ROOT = Path(__file__).parents[1]
DOWNLOAD_LIMIT_S = 300
PLATFORM = "manylinux_2_28_x86_64"


def standins() -> ModuleType:
    """Load ``benchmarks/vllm_standins.py``, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("vllm_standins", ROOT / "benchmarks" / "vllm_standins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vllm_folder() -> Path:
    """Return a folder to import vLLM's kernels from, or skip the test with the reason why there is none.

    That is ``.vllm`` in the repository if it holds this version, else a folder of the user's cache, into which the
    wheel's modules are put once.
    """
    folder, reason = _find_or_fetch()
    if folder is None:
        pytest.skip(reason)
    return folder


def requirements() -> list[str]:
    """Return what vLLM requires without an extra, from the file that holds it."""
    lines = (ROOT / "tests" / "vllm_requirements.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def requirements_of_the_wheel() -> list[str] | None:
    """Return the same out of the published wheel; None where the tests have never fetched it."""
    kept = _metadata_of(_cached())
    if not kept.is_file():
        return None
    required = HeaderParser().parsestr(kept.read_text()).get_all("Requires-Dist", [])
    return [one for one in required if "extra ==" not in one]


def _cached() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bo_tune" / f"vllm-{VERSION}"


def _metadata_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.METADATA")


@cache
def _find_or_fetch() -> tuple[Path | None, str]:
    cached = _cached()
    for folder in (ROOT / ".vllm", cached):
        if _is_complete(folder):
            return folder, ""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_suffix(".lock")):
            if not _is_complete(cached):
                _fetch(cached)
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or ["pip failed"])[-1]
        return None, f"the wheel of vLLM {VERSION} cannot be had: {why}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"the wheel of vLLM {VERSION} cannot be had: {error}"
    return cached, ""


def _is_complete(folder: Path) -> bool:
    modules = standins()
    names = [*modules.STAND_INS, *(f"{modules.PACKAGE}/{name}.py" for name in modules.COPIED), *modules.READ]
    return all((folder / name).is_file() for name in names) and VERSION in (folder / "vllm/__init__.py").read_text()


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as downloads:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1", "--timeout", "10"]
        what = ["--no-deps", "--only-binary=:all:", "--platform", PLATFORM, f"vllm=={VERSION}", "-d", downloads]
        subprocess.run([*pip, *what], capture_output=True, text=True, check=True, timeout=DOWNLOAD_LIMIT_S)
        (wheel,) = Path(downloads).glob("vllm-*.whl")
        standins().build(wheel, folder)
        with zipfile.ZipFile(wheel) as archive:
            _metadata_of(folder).write_bytes(archive.read(f"vllm-{VERSION}.dist-info/METADATA"))


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let ``import vllm`` find what lies in a folder, and forget it all afterwards."""
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
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]
