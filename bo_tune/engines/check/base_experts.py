"""The lookups of the base model's experts, if the folder holds a file for them.

Without such a file, there is nothing to check: the engine uses the file that it ships, or its defaults, as it does
without the folder.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bo_tune.core.problem import GpuInfo, Problem, lora_file_name
from bo_tune.engines.check.findings import Fault, Lookup, M, place_of
from bo_tune.engines.check.lora_files import THE_STOP
from bo_tune.engines.check.other_files import OtherFile
from bo_tune.engines.models.engine import step_sizes
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.experts import VllmExperts
from bo_tune.engines.vllm.experts_files import SPLIT_K, ExpertsFile, configs_in, file_name, key_of
from bo_tune.engines.vllm.lookup import Found, switch_points
from bo_tune.kernels.experts.spec import ExpertsSpec
from bo_tune.kernels.experts.step import ENGINE_NAMES, ExpertsStep

_SPEC = ExpertsSpec()
_UNSAID = {"num_warps": 4, "num_stages": 3}
"""Triton's values where a config has none."""


def file_asked(model: ModelStudy, names: Iterable[str], gpu_file_name: str, gpu: str | None) -> str | None:
    """Return the file of a folder in which an engine looks up a model's experts; None if it is missing.

    Args:
        names: names of the folder's files.
        gpu_file_name: the GPU's name as in LoRA files.
        gpu: name as given by ``torch.cuda.get_device_name``; None if only LoRA files name the GPU.
    """
    for problem in _asked(model, (1,)):
        step = ExpertsStep.of(problem)
        wanted = file_name(step.experts.local, step.n, gpu or gpu_file_name, step.weights, step.block)
        # Without the GPU's own name, the places of hyphens are unknown.
        alike = (
            name for name in names if name == wanted or (not gpu and lora_file_name(name) == lora_file_name(wanted))
        )
        return next(alike, None)
    return None


def experts_lookups(
    model: ModelStudy, name: str, content: object, gpu: GpuInfo | None, *, ms: Sequence[int], largest: int
) -> list[Lookup]:
    """Look up a model's experts in a file, at every number of tokens at which the result may change.

    Args:
        name: name of the file.
        content: the parsed JSON, or ``Unreadable``.
        gpu: the GPU, if known.
        ms: numbers of tokens in a step; empty for all from 1 to ``largest``.
    """
    configs = configs_in(content) if isinstance(content, dict) else {}
    sizes = ms or sorted({*step_sizes(largest), *switch_points(configs, largest)})
    file = OtherFile.of(name)
    general = next(file.faults(content, None), None) if file else None
    return [_look_up(problem, layers, name, configs, general, gpu) for problem, layers in _asked(model, sizes).items()]


def _asked(model: ModelStudy, ms: Sequence[int]) -> Mapping[Problem, tuple[str, ...]]:
    return VllmExperts().problems(replace(model, ms=tuple(ms)))


def _look_up(
    problem: Problem,
    layers: tuple[str, ...],
    name: str,
    configs: Mapping[str, object],
    general: Fault | None,
    gpu: GpuInfo | None,
) -> Lookup:
    m = ExpertsStep.of(problem).m
    key = key_of(configs, m)
    if key is None:  # the whole file is unusable, as its faults say
        return Lookup(problem, layers, name, {M: m}, None, (general,) if general else ())
    found = Found((key,), () if int(key) == m else (M,), configs[key])
    fault = _unusable(problem, name, found, gpu)
    return Lookup(problem, layers, name, {M: m}, found, (fault,) if fault else ())


def _unusable(problem: Problem, name: str, found: Found, gpu: GpuInfo | None) -> Fault | None:
    """Return the fault of a config that was found but cannot be launched; None if it can."""
    file, place, step = ExpertsFile.of(name), place_of(found.keys), ExpertsStep.of(problem)
    reason = file.fault(found.config) if file else None
    if reason is None and step.is_grouped and SPLIT_K not in found.config:
        reason = f"{SPLIT_K} is missing"
    if reason:
        return Fault(name, place, f"{reason}: {THE_STOP}")
    config = {key: value for key, value in {**_UNSAID, **found.config}.items() if key in ENGINE_NAMES}
    reason = _SPEC.impossible(config, step.problem, gpu) if gpu else None
    return Fault(name, place, f"{reason}: the launch would fail on {gpu.name}") if gpu and reason else None
