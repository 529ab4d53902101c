"""The engines whose files are known. A new engine, or a new family of files, is one line here."""

from collections.abc import Collection, Iterable

from bo_tune.core.problem import GpuInfo, Problem
from bo_tune.core.space import Config
from bo_tune.engines.base import Address, Engine
from bo_tune.engines.models.serving import ModelStudy
from bo_tune.engines.sglang.csgmv import SglangLora
from bo_tune.engines.vllm.experts import VllmExperts
from bo_tune.engines.vllm.lora import VllmLora
from bo_tune.engines.vllm.mamba import VllmMamba
from bo_tune.errors import InputError

ENGINES: list[Engine] = [VllmLora(), VllmExperts(), VllmMamba(), SglangLora()]


def engine_of(kernel: str) -> Engine:
    """Return the engine that looks up the configs of a kernel. Raises InputError if there is none."""
    for engine in ENGINES:
        if kernel in engine.kernels:
            return engine
    raise InputError(f"no engine looks up configs of the kernel {kernel!r}")


def is_looked_up(kernel: str) -> bool:
    """Say whether an engine looks up configs of a kernel."""
    return any(kernel in engine.kernels for engine in ENGINES)


def engine_of_file(name: str) -> Engine | None:
    """Return the engine that loads files of this name, or None."""
    return next((engine for engine in ENGINES if engine.gpu_in(name) is not None), None)


def address_of(problem: Problem, gpu: GpuInfo) -> Address:
    """Return the place where a problem's config is looked up. Raises InputError if no engine does."""
    return engine_of(problem.kernel).address(problem, gpu)


def launchable(problem: Problem, config: Config) -> Config:
    """Return a tuned config with all that its engine must find in a file. Raises InputError without an engine."""
    return engine_of(problem.kernel).launchable(problem, config)


def served_problems(model: ModelStudy, kernels: Collection[str] | None = None) -> dict[Problem, tuple[str, ...]]:
    """Return the problems whose configs engines look up for a model, each with its layers.

    Args:
        kernels: only problems of these kernels; None for all that serve the model.

    Raises:
        ModelError: no engine serves the model like this.
    """
    found: dict[Problem, tuple[str, ...]] = {}
    for engine in ENGINES:
        found |= engine.problems(model, kernels) if engine.serves is model.engine else {}
    return found


def folder_variables(files: Iterable[str]) -> list[str]:
    """Return the environment variables that name a folder of these files to the engines that load them."""
    engines = [engine_of_file(name) for name in files]
    return list(dict.fromkeys(one.folder_variable for one in engines if one is not None and one.folder_variable))


def patterns() -> str:
    """Return the patterns of the names of tuned files, for people."""
    return ", ".join(pattern for engine in ENGINES for pattern in engine.patterns)
