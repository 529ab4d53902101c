"""vLLM's files for the base model's experts: one for each number of experts, intermediate size and GPU."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bo_tune.core.problem import Experts, GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.engines.base import Address, Engine, Entries, Keys, WrittenConfig, by_number
from bo_tune.engines.json_text import json_bytes, kind_of, parse_strictly
from bo_tune.engines.models.architectures.moe import EXPERTS
from bo_tune.engines.models.experts import experts_of, held_experts
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.vllm.experts_files import BLOCKS, PATTERN, SPLIT_K, ExpertsFile, configs_in, file_name
from bo_tune.engines.vllm.experts_weights import ExpertWeights, expert_weights
from bo_tune.engines.vllm.table_format import decimal_key_fault
from bo_tune.errors import TableError
from bo_tune.kernels.experts.step import ENGINE_NAMES, KERNEL, ExpertsStep


class VllmExperts(Engine):
    """vLLM's experts' files. A ``triton_version`` is dropped, because each entry's sidecar has its toolchain."""

    name: ClassVar[str] = "vLLM, the base model's experts"
    kernels: ClassVar[Collection[str]] = (KERNEL,)
    patterns: ClassVar[Sequence[str]] = (PATTERN,)

    def address(self, problem: Problem, gpu: GpuInfo) -> Address:
        step = ExpertsStep.of(problem)
        return Address(file_name(step.experts.local, step.n, gpu.name, step.weights, step.block), (str(step.m),))

    def gpu_in(self, file_name: str) -> str | None:
        file = ExpertsFile.of(file_name)
        return file.device if file else None

    def parse(self, text: bytes, path: Path) -> dict[Keys, WrittenConfig]:
        file, content = ExpertsFile.of(path.name), parse_strictly(text, path)
        if file is None:
            raise TableError(f"{path}: expected the name of a file that vLLM loads")
        if not isinstance(content, dict):
            raise TableError(f"{path}: expected an object with numbers of tokens as keys, got {kind_of(content)}")
        found: dict[Keys, WrittenConfig] = {}
        for key, config in configs_in(content).items():
            fault = decimal_key_fault("number of tokens", key) or file.fault(config)
            if fault:
                raise TableError(f"{path}: {key}: {fault}")
            found[(key,)] = config
        return found

    def render(self, entries: Entries) -> bytes:
        return json_bytes({keys[0]: dict(entries[keys]) for keys in sorted(entries, key=by_number)})

    def launchable(self, problem: Problem, config: Config) -> Config:
        """Return the config with SPLIT_K for integers. The file has to give their kernel all its parameters."""
        return {**config, SPLIT_K: 1} if ExpertsStep.of(problem).is_grouped else config

    def as_written(self, config: WrittenConfig) -> WrittenConfig:
        order = list(dict.fromkeys((*BLOCKS, *ENGINE_NAMES)))
        names = sorted(config, key=lambda name: (order.index(name) if name in order else len(order), name))
        return {name: config[name] for name in names}

    def problems(self, model: ModelStudy, kernels: Collection[str] | None = None) -> Mapping[Problem, tuple[str, ...]]:
        """Return the problems of a model's experts. The engine asks for them with and without adapters.

        There are none if the model has no experts, or if the engine runs them with other kernels (see ``unserved``).
        """
        moe = model.shape.moe
        if moe is None or not (kernels is None or KERNEL in kernels):
            return {}
        experts, n = _held(model)
        held = _weights(model, n)
        if held.unserved:
            return {}
        dtype, more = model.dtype or model.shape.dtype, (held.weights, held.block, held.zeros)
        steps = [ExpertsStep(m, experts, moe.hidden, n, moe.gated, dtype, *more) for m in model.ms]
        return {step.problem: (EXPERTS,) for step in steps}


def unserved(model: ModelStudy) -> str:
    """Say why an engine looks up no config for the experts of a model; empty if it does, or if there are none."""
    return "" if model.shape.moe is None else _weights(model, _held(model)[1]).unserved


def _held(model: ModelStudy) -> tuple[Experts, int]:
    return held_experts(
        model.shape, model.tensor_parallel, expert_parallel=model.expert_parallel, fully_sharded=model.fully_sharded
    )


def _weights(model: ModelStudy, n: int) -> ExpertWeights:
    return expert_weights(model.shape.quantized, model.quantization).on(n, experts_of(model.shape).hidden)
