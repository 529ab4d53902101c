"""Folders of tuned files for the tests of ``check``: good ones, to be spoilt."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import H100, ROOT, SHRINK_TABLE

from bo_tune.engines.check import Report, check_folder
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.file_names import table_file_name
from bo_tune.kernels.registry import kernel_spec

LLAMA = ROOT / "studies" / "models" / "llama-3.1-8b"
MODEL = ModelStudy.of(str(LLAMA), tensor_parallel=1, ranks=[16], max_loras=[4], ms=[1, 16, 256, 1024, 8192])
Documents = dict[str, dict[str, Any]]


def qwen(rank: int = 16, **more: Any) -> ModelStudy:
    """Return Qwen3-30B-A3B with adapters on its experts and one dense layer."""
    settings = {"tensor_parallel": 1, "target_modules": ["o_proj", "experts"], **more}
    path = ROOT / "studies" / "models" / "qwen3-30b-a3b"
    return ModelStudy.of(str(path), ranks=[rank], max_loras=[4], ms=[16, 256], **settings)


def documents(model: ModelStudy = MODEL, gpu: str = H100.file_name) -> Documents:
    """Return the files that hold a good entry for every problem of a model; of the experts, with block_m 64."""
    files: Documents = {}
    for problem in model.problems_by_layer():
        spec = kernel_spec(problem.kernel)
        level = files.setdefault(table_file_name(gpu, spec.file_stem(problem)), {})  # type: ignore[attr-defined]
        *above, last = spec.table_key(problem)  # type: ignore[attr-defined]
        for key in above:
            level = level.setdefault(key, {})
        level[last] = {**spec.default_config(problem), **({"block_m": 64} if "moe" in problem.kernel else {})}
    return files


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Write files into a folder: text as it is, all else as JSON."""
    for name, document in files.items():
        (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return folder


def checked(
    folder: Path,
    change: Callable[[Documents], object] = lambda files: None,
    model: ModelStudy = MODEL,
    **more: Any,
) -> Report:
    """Check good files of a model, changed."""
    files = copy.deepcopy(documents(model))
    change(files)
    return check_folder(write(folder, files), model, **{"gpu": H100.name, **more})


def reasons(report: Report) -> list[str]:
    """Return the faults, a line each."""
    return [f"{fault.file} {fault.place}: {fault.reason}" for fault in report.faults]


def shrink(*keys: str) -> Callable[[Documents], dict[str, Any]]:
    """Return what finds a level of the shrink file."""

    def level(files: Documents) -> dict[str, Any]:
        found: dict[str, Any] = files[SHRINK_TABLE]
        for key in keys:
            found = found[key]
        return found

    return level
