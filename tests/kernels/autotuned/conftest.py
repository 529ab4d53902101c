"""What tests of ``bo_tune.autotune`` share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import autotuned_kernels
import pytest
from triton.runtime.jit import JITFunction

from bo_tune.kernels.autotuned.misses import Misses
from bo_tune.kernels.user import frozen

GPU = "NVIDIA H100 80GB HBM3"
KERNELS = [value for value in vars(autotuned_kernels).values() if type(value).__name__ == "Autotuned"]
KERNELS.append(autotuned_kernels.add_up_kernel.fn)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """The options of launches, none of which is done, on a GPU by name; nothing is known of any key before or after."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(JITFunction, "run", lambda self, *args, **options: seen.append(options))
    monkeypatch.setattr(frozen, "gpu_at_hand", lambda: GPU)
    monkeypatch.chdir(tmp_path)
    for kernel in KERNELS:
        monkeypatch.setattr(kernel, "_winners", {})
        monkeypatch.setattr(kernel, "_misses", Misses(kernel, kernel._misses._settings))
    frozen.forget()
    yield seen
    frozen.forget()


def write_table(path: Path, kernel: str, *entries: tuple[dict[str, Any], dict[str, Any]], gpu: str = GPU) -> Path:
    """Write a table of sizes and configs, and return its path."""
    rows = [
        {"sizes": sizes, "config": config, "time_us": 1.0, "default_time_us": 2.0, "study": kernel}
        for sizes, config in entries
    ]
    path.write_text(json.dumps({"format": "bo_tune table 1", "kernels": {kernel: {gpu: rows}}}))
    frozen.forget()
    return path
