"""Checks that need no process of their own: a C compiler, caches, the installed vLLM."""

import os
import platform
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bo_tune
from bo_tune.analysis.doctor.finding import Finding, failed, ok, warning
from bo_tune.errors import DeviceError
from bo_tune.files import check_file_writable, os_error_text
from bo_tune.kernels.vllm.installed import LAUNCHERS, described, installed_kernels, unavailable
from bo_tune.measure.compile.host import cache_folder, check_cache

COMPILERS = ("gcc", "clang")
"""Compilers that Triton looks for if ``CC`` names none."""

LEAST_FREE_BYTES = 2**30
"""Least free space that a cache's file system should have. The few hundred binaries of a model and their earlier stages
take about 100 MiB."""


def program() -> Finding:
    """Say which program is running."""
    return ok("bo-tune", f"{bo_tune.__version__}, Python {platform.python_version()}, {platform.platform()}")


def compiler() -> Iterator[Finding]:
    """Look for the compiler and headers with which Triton builds the launchers of kernels."""
    named = os.environ.get("CC")
    found = shutil.which(named.split()[0]) if named and named.split() else None
    if not named:
        found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        said = f"CC={named} is not a program" if named else f"neither {' nor '.join(COMPILERS)} is on the PATH"
        yield failed(
            "C compiler",
            said,
            "Triton builds launchers with a C compiler: run apt install gcc, or set CC to another compiler",
        )
        return
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if header.exists():
        yield ok("C compiler", found)
        return
    version = ".".join(platform.python_version_tuple()[:2])
    yield failed(
        "C compiler",
        f"{found}, but Python's headers are not installed ({header})",
        f"Triton builds launchers with these headers: run apt install python{version}-dev",
    )


def caches() -> Iterator[Finding]:
    """Check that binaries and temporary files can be written, and that there is room for them."""
    folder = cache_folder(os.environ)
    try:
        check_cache(os.environ)
    except DeviceError as error:
        said, _, remedy = str(error).partition("; ")
        yield failed("Triton's cache", said, remedy)
    else:
        yield _room("Triton's cache", folder, "set TRITON_CACHE_DIR to another folder")
    try:
        temporary = Path(tempfile.gettempdir())
        check_file_writable(temporary / "bo-tune-probe")
    except OSError as error:
        yield failed("temporary files", os_error_text(error), "set TMPDIR to a folder that can be written")
    else:
        yield _room("temporary files", temporary, "set TMPDIR to another folder")


def _room(check: str, folder: Path, elsewhere: str) -> Finding:
    """Say how much room there is where a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    said = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < LEAST_FREE_BYTES:
        return warning(check, said, f"free some space there, or {elsewhere}")
    return ok(check, said)


def engine(source: str) -> Finding:
    """Say whose kernels would be tuned.

    Args:
        source: one of ``KERNEL_SOURCES``.
    """
    if source == "builtin":
        return ok("kernels", "bo_tune's own, because of --kernels builtin; no engine runs them")
    missing = unavailable()
    if missing is None:
        there = installed_kernels() or []
        lacking = [name for name in LAUNCHERS if name not in there]
        rest = f", but not {', '.join(lacking)}" if lacking else ""
        return ok("kernels", f"{described()}: {', '.join(there)}{rest}")
    remedy = "install bo_tune into the engine's environment: run pip install bo_tune there"
    if source == "vllm":
        return failed("kernels", missing, remedy)
    said = f"{missing}: bo_tune would tune its own kernels, which no engine runs"
    return warning("kernels", said, f"{remedy}; or pass --kernels builtin if you want that")
