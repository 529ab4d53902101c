"""How searches on recorded grids are told of configs: by other features, or with what each config's binary uses."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.spec import AnySpec

Described = Callable[[AnySpec, Sequence[Config], LoraProblem, GpuInfo], NDArray[np.float64]]


@contextmanager
def described_by(features: Described, recordings: Sequence[Recording]) -> Iterator[None]:
    """Have the configs of these recordings' kernels described by a function."""
    with ExitStack() as stack:
        for spec in {type(kernel_spec(recording.problem.kernel)) for recording in recordings}:
            stack.enter_context(patch.object(spec, "features", features))
        yield


@contextmanager
def resources_known(recordings: Sequence[Recording]) -> Iterator[None]:
    """Add to the features of every recorded config what its binary uses: what no sampler knows before compiling."""
    known = {(r.problem, r.gpu.name): _resources(r) for r in recordings}
    before = {type(spec): type(spec).features for spec in (kernel_spec(r.problem.kernel) for r in recordings)}

    def features(spec: AnySpec, configs: Sequence[Config], problem: LoraProblem, gpu: GpuInfo) -> NDArray[np.float64]:
        rows = known[problem, gpu.name]
        mean = np.mean(list(rows.values()), axis=0)
        used = np.array([rows.get(config_key(config), mean) for config in configs])
        return np.column_stack([before[type(spec)](spec, configs, problem, gpu), used])

    with described_by(features, recordings):
        yield


def _resources(recording: Recording) -> dict[ConfigKey, NDArray[np.float64]]:
    """Logarithms of shared memory, registers and spills of the configs that compiled."""
    rows = {}
    for key, entry in recording.entries.items():
        used = entry.resources
        if used.registers_per_thread:
            figures = [used.shared_memory_bytes or 0, used.registers_per_thread, used.spilled_registers or 0]
            rows[key] = np.log2(1.0 + np.array(figures, dtype=float))
    return rows
