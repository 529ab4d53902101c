"""The lookups of Mamba-2 layers' decode steps, if the folder holds a file for them.

Without such a file, there is nothing to check: the engine uses the file that it ships, or its default, as it does
without the folder. Lookups ask for a number of pairs of a sequence and a head.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bo_tune.core.problem import Problem, lora_file_name
from bo_tune.engines.check.findings import Fault, Lookup, M, place_of
from bo_tune.engines.check.lora_files import THE_STOP
from bo_tune.engines.check.other_files import OtherFile
from bo_tune.engines.models.engine import step_sizes
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.lookup import Found
from bo_tune.engines.vllm.mamba import VllmMamba
from bo_tune.engines.vllm.mamba_files import config_fault, configs_in, file_name, key_of
from bo_tune.kernels.mamba.step import MambaStep


def mamba_file_asked(model: ModelStudy, names: Iterable[str], gpu_file_name: str, gpu: str | None) -> str | None:
    """Return the file of a folder in which an engine looks up a model's Mamba-2 layers; None if it is missing.

    Args:
        names: names of the folder's files.
        gpu_file_name: the GPU's name as in LoRA files.
        gpu: name as given by ``torch.cuda.get_device_name``; None if only LoRA files name the GPU.
    """
    for problem in _asked(model, (1,)):
        step = MambaStep.of(problem)
        wanted = file_name(step.headdim, step.dstate, step.file_dtype, gpu or gpu_file_name)
        # Without the GPU's own name, the places of hyphens are unknown.
        alike = (
            name for name in names if name == wanted or (not gpu and lora_file_name(name) == lora_file_name(wanted))
        )
        return next(alike, None)
    return None


def mamba_lookups(model: ModelStudy, name: str, content: object, *, ms: Sequence[int]) -> list[Lookup]:
    """Look up a model's Mamba-2 layers in a file, for every number of sequences at which the result may change.

    Args:
        name: name of the file.
        content: the parsed JSON, or ``Unreadable``.
        ms: numbers of sequences in a step; empty for all from 1 to the engine's maximum.
    """
    configs = configs_in(content) if isinstance(content, dict) else {}
    file = OtherFile.of(name)
    general = next(file.faults(content, None), None) if file else None
    asked = _asked(model, ms or _sizes(model, configs))
    return [_look_up(problem, layers, name, configs, general) for problem, layers in asked.items()]


def _asked(model: ModelStudy, ms: Sequence[int]) -> Mapping[Problem, tuple[str, ...]]:
    return VllmMamba().problems(replace(model, ms=tuple(ms)))


def _sizes(model: ModelStudy, configs: Mapping[str, object]) -> list[int]:
    """Return numbers of sequences whose lookups cover those of all others."""
    most = model.max_sequences
    counts = {MambaStep.of(problem).sequences: problem for problem in _asked(model, range(1, most + 1))}
    keys = {count: key_of(configs, MambaStep.of(problem).key) for count, problem in counts.items()}
    changes = {count for count, key in keys.items() if keys.get(count - 1) != key}
    return sorted({*step_sizes(most), *changes})


def _look_up(
    problem: Problem, layers: tuple[str, ...], name: str, configs: Mapping[str, object], general: Fault | None
) -> Lookup:
    pairs = MambaStep.of(problem).key
    key = key_of(configs, pairs)
    if key is None:  # the whole file is unusable, as its faults say
        return Lookup(problem, layers, name, {M: pairs}, None, (general,) if general else ())
    found = Found((key,), () if int(key) == pairs else (M,), configs[key])
    reason = config_fault(found.config)
    faults = (Fault(name, place_of(found.keys), f"{reason}: {THE_STOP}"),) if reason else ()
    return Lookup(problem, layers, name, {M: pairs}, found, faults)
