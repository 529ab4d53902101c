"""Makes all checks at once, and ends whatever hangs by a deadline."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bo_tune.analysis.doctor import host, verdicts
from bo_tune.analysis.doctor.finding import Finding
from bo_tune.core.choices import MEMORY
from bo_tune.measure.backends.registry import GpuName, backend_named
from bo_tune.measure.examined.asking import Asked
from bo_tune.measure.examined.toolchain import GO

DRIVER_MODULE = "bo_tune.measure.examined.driver"
TOOLCHAIN_MODULE = "bo_tune.measure.examined.toolchain"
STORE_MODULE = "bo_tune.store.reachable"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The GPU, kernels and database with which the user wants to tune.

    Attributes:
        gpu: which GPU.
        source: whose kernels (``KERNEL_SOURCES``).
        storage: URL of the database.
        wait_s: seconds after which a check that has not answered counts as hanging.
    """

    gpu: GpuName
    source: str
    storage: str
    wait_s: float


def examined(wanted: Wanted) -> Sequence[Finding]:
    """Make the checks, and return them in the order in which problems should be fixed.

    This process loads neither torch nor a driver. The GPU is watched before any of these checks has it open.
    """
    vendor, number = backend_named(wanted.gpu.backend), wanted.gpu.index or 0
    until = time.monotonic() + wanted.wait_s
    with tempfile.TemporaryDirectory(prefix="bo-tune-doctor-", ignore_cleanup_errors=True) as cache:
        of_gpu = (vendor.name, str(number))
        driver = Asked(DRIVER_MODULE, *of_gpu)
        # With an empty cache, so that the trial kernel is really compiled.
        toolchain = Asked(TOOLCHAIN_MODULE, *of_gpu, environment={**vendor.environment, "TRITON_CACHE_DIR": cache})
        store = Asked(STORE_MODULE) if wanted.storage != MEMORY else None
        asked = [one for one in (driver, toolchain, store) if one is not None]
        try:
            if store is not None:
                store.tell(wanted.storage)
            of_driver = driver.answers(until)
            toolchain.tell(GO if number < of_driver.get("usable", 0) else "")
            of_toolchain = toolchain.answers(until)
            return [
                host.program(),
                *verdicts.driver(vendor, number, of_driver, driver, os.environ),
                *verdicts.toolchain(vendor, of_toolchain, toolchain),
                *host.compiler(),
                *host.caches(),
                host.engine(wanted.source),
                *(verdicts.database(wanted.storage, store.answers(until), store) for _ in (1,) if store is not None),
            ]
        finally:
            for one in asked:
                one.close()
