"""What the database already holds on a kernel: the histories a sampler's prior learns from."""

from math import log2

import numpy as np

from bo_tune.kernels.spec import KernelSpec
from bo_tune.problem import GpuInfo, Problem
from bo_tune.search import StudyHistory
from bo_tune.storage import GPU_ATTR, RESULT_ATTR, StudyStore, StudySummary
from bo_tune.trials import time_us

FEWEST_TRIALS = 5
"""A study with fewer trials that have a time teaches nothing."""


def descriptor(problem: Problem, gpu: GpuInfo) -> dict[str, float]:
    """Describe a problem by numbers of which a difference of 1 matters alike: log2 of its sizes and of the GPU's."""
    sizes = {"m": problem.m, "k": problem.k, "n": problem.n, "i": problem.i or 1, "max_loras": problem.max_loras}
    described = {name: log2(size) for name, size in sizes.items()}
    return {**described, "num_slices": float(problem.num_slices), "sm_count": log2(gpu.sm_count)}


def histories(store: StudyStore, spec: KernelSpec, problem: Problem, gpu: GpuInfo) -> list[StudyHistory]:
    """Load the finished studies of the same kernel on other problems, or on other GPUs.

    A study of this very problem on this GPU is left out, whatever measured it: an exhaustive one would give
    away what a search is to find.
    """
    found = []
    for summary in store.summaries():
        other = summary.name
        if other.problem.kernel != problem.kernel or RESULT_ATTR not in summary.attributes:
            continue
        if (other.problem, other.gpu) == (problem, gpu.name):
            continue
        history = _load(store, summary, spec)
        if history is not None:
            found.append(history)
    return found


def _load(store: StudyStore, summary: StudySummary, spec: KernelSpec) -> StudyHistory | None:
    problem, gpu = summary.name.problem, GpuInfo.from_json(summary.attributes[GPU_ATTR])
    timed = [(t, time_us(t)) for t in store.load(summary.name).trials()]
    known = [(dict(t.params), time) for t, time in timed if time is not None]
    if len(known) < FEWEST_TRIALS:
        return None
    configs = [config for config, _ in known]
    times = np.array([time for _, time in known], dtype=float)
    return StudyHistory(spec.features(configs, problem, gpu), times, configs, descriptor(problem, gpu))
