"""The lookups of SGLang's chunked LoRA kernels in a folder, as an engine start makes them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bo_tune.core.gpus import known_gpu
from bo_tune.core.problem import GpuInfo, Problem, lora_file_name
from bo_tune.engines.check.findings import Fault, Lookup, M, Report, place_of
from bo_tune.engines.check.lora_files import Unreadable, read
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.sglang.csgmv import SglangLora
from bo_tune.engines.sglang.csgmv_files import CsgmvFile, file_name, key_of, places
from bo_tune.engines.vllm.lookup import Found
from bo_tune.errors import TableError
from bo_tune.files import os_error_text
from bo_tune.kernels.csgmv.step import FEWEST_TOKENS, CsgmvStep
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.sglang.untuned import triton_version

STOPS = "SGLang stops"
NO_FILE = "SGLang runs its default config, not the one that it ships"

ALL_SIZES = (1, *(fewest for fewest, _ in FEWEST_TOKENS))
"""Tokens in steps that are cut into chunks of every possible size."""


def check_csgmv(folder: Path, model: ModelStudy, *, gpu: str | None = None, ms: Sequence[int] = ()) -> Report:
    """Walk the lookups of a model that SGLang serves through a folder.

    Args:
        folder: the folder that ``SGLANG_LORA_CONFIG_DIR`` names, or one of its subfolders with the files.
        model: the model; its ``ms`` are ignored.
        gpu: name of the GPU as given by ``torch.cuda.get_device_name``. If left out, the folder tells.
        ms: numbers of tokens in a step; all if left out.

    Raises:
        TableError: the folder cannot be read, or does not tell which GPU it is for.
        ModelError: the model poses no such problems.
    """
    searched = _searched(folder)
    name = gpu or _only_gpu(folder, searched)
    info = known_gpu(name) or known_gpu(name.replace("_", " "))
    asked = SglangLora().problems(replace(model, ms=tuple(ms) or ALL_SIZES))
    lookups = tuple(_look_up(problem, layers, searched, name, info) for problem, layers in asked.items())
    return Report(folder, lora_file_name(name), gpu, info, lookups, (), model.note)


def _searched(folder: Path) -> dict[Path, list[str]]:
    """Return the folders in which the engine looks, in its order, with the names of their files."""
    try:
        return {place: sorted(path.name for path in place.iterdir()) for place in places(folder, triton_version())}
    except OSError as error:
        raise TableError(f"{folder}: {os_error_text(error)}") from None


def _only_gpu(folder: Path, searched: dict[Path, list[str]]) -> str:
    found = sorted({file.device for names in searched.values() for name in names if (file := CsgmvFile.of(name))})
    if len(found) != 1:
        what = f"files of {', '.join(found)}" if found else "no tuned JSON of SGLang (lora_shrink,K=….json)"
        raise TableError(f"{folder}: this folder has {what}; name the GPU with --gpu")
    return found[0]


def _look_up(
    problem: Problem, layers: tuple[str, ...], searched: dict[Path, list[str]], gpu: str, info: GpuInfo | None
) -> Lookup:
    step = CsgmvStep.of(problem)
    name = file_name(step, gpu)
    asked = {"K": step.wide, "R": step.rank, "S": step.slices, M: step.chunk}
    place = next((place for place, names in searched.items() if name in names), None)
    if place is None:
        return Lookup(problem, layers, name, asked, None, (Fault(name, "", f"the file does not exist: {NO_FILE}"),))
    content = read(place / name)
    if isinstance(content, Unreadable) or not isinstance(content, dict):
        reason = (
            content.reason
            if isinstance(content, Unreadable)
            else (f"expected an object with chunk sizes as keys: {STOPS}")
        )
        return Lookup(problem, layers, name, asked, None, (Fault(name, "", reason),))
    key = key_of(content, step.chunk)
    if key is None:
        what = "a key is not a chunk size" if content else "the file is empty"
        return Lookup(problem, layers, name, asked, None, (Fault(name, "", f"{what}: {STOPS}"),))
    # The file's name fixes all levels except the chunk size.
    found = Found(("*", "*", "*", key), () if int(key) == step.chunk else (M,), content[key])
    return Lookup(problem, layers, name, asked, found, tuple(_unusable(step, name, found, info)))


def _unusable(step: CsgmvStep, name: str, found: Found, gpu: GpuInfo | None) -> Iterator[Fault]:
    """Yield the fault of a config that was found but cannot be launched."""
    file, place = CsgmvFile.of(name), place_of(found.keys[-1:])
    reason = file.fault(found.config) if file else None
    if reason:
        yield Fault(name, place, f"{reason}: {STOPS}")
    elif file and gpu:
        reason = kernel_spec(step.kernel).impossible(file.whole(found.config), step.problem, gpu)
        yield from [Fault(name, place, f"{reason}: the launch would fail on {gpu.name}")] if reason else []
