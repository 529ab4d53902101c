"""Entries that keep the experts' kernels as an engine without tuned files runs them.

If an engine is given a folder of tuned files, and finds none for the experts, it launches them with fixed defaults
instead of the configs that it takes without a folder. So a folder that is tuned only for other kernels would make the
experts slower, unless it holds files for them, too.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from bo_tune.core.problem import GpuInfo, LoraProblem, Problem
from bo_tune.core.surroundings import MOE_KERNELS
from bo_tune.engines.base import Entries, Keys, TunedEntry
from bo_tune.engines.vllm.file_names import table_file_name
from bo_tune.engines.vllm.table_format import LEVELS
from bo_tune.kernels.moe.spec import MOE_SPECS
from bo_tune.kernels.registry import engine_spec
from bo_tune.kernels.vllm.untuned import untuned_configs

MOST_TOKENS = 16384
"""vLLM's own choice of the most tokens in a step (``--max-num-batched-tokens``, on GPUs from 160 GiB or offline)."""


def untuned_entries(
    asked: Collection[Problem], tuned: Collection[str], gpu: GpuInfo, folder: Path, read: Callable[[Path], Entries]
) -> list[TunedEntry]:
    """Return entries for the experts of a model whose kernels were not tuned, now or before.

    There are none if no experts are looked up, or if the folder already holds entries of theirs. All four kernels must
    agree on block_m, so entries for some of them must not be mixed with others.

    The keys m are those between which the engine's own config changes. So the nearest key gives, for every m, the
    config that the engine would have taken.

    Args:
        asked: the problems whose configs the engine looks up.
        tuned: names of the tuned kernels.
        folder: the folder of the files.
        read: reads one of them.

    Raises:
        TableError: a file of the folder is malformed.
        VllmError: the installed vLLM does not tell what it runs without tuned files.
    """
    if not set(MOE_KERNELS).isdisjoint(tuned):
        return []
    entries = []
    experts = (problem for problem in asked if isinstance(problem, LoraProblem) and problem.kernel in MOE_KERNELS)
    for problem in dict.fromkeys(replace(problem, m=1) for problem in experts):
        spec = engine_spec(problem.kernel)
        for m, config in switches(problem, gpu).items():
            keys = spec.table_key(replace(problem, m=m))
            file_name = table_file_name(gpu.file_name, spec.file_stem(problem))
            entries.append(TunedEntry(file_name, keys, config, None))
    files = {entry.file_name for entry in entries if (folder / entry.file_name).exists()}
    there = {_without_m(keys) for name in files for keys in read(folder / name)}
    return [] if any(_without_m(entry.keys) in there for entry in entries) else entries


def _without_m(keys: Keys) -> Keys:
    position = LEVELS.index("m")
    return (*keys[:position], *keys[position + 1 :])


def switches(problem: LoraProblem, gpu: GpuInfo) -> Mapping[int, dict[str, int]]:
    """Return the numbers of tokens on both sides of each change of the engine's own config, with that config."""
    config_at = untuned_configs(MOE_SPECS[MOE_KERNELS.index(problem.kernel)], problem, gpu)
    configs = {m: config_at(m) for m in range(1, MOST_TOKENS + 1)}
    sides = {m for pair in pairwise(configs) if configs[pair[0]] != configs[pair[1]] for m in pair}
    return {m: configs[m] for m in sorted({1, *sides})}
