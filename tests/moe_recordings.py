"""The bundled recordings of the fused MoE kernels, and small parts of them."""

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

from helpers import BUNDLED

from bo_tune.core.space import SearchSpace, config_key
from bo_tune.formats.recording import Recording, read_recordings, recording_file_name
from bo_tune.formats.recording_format import DEFAULT_CONFIG
from bo_tune.kernels.registry import KERNELS

MOE = BUNDLED / "moe"
MOE_KERNELS = tuple(name for name in KERNELS if "moe" in name)
GPU_FILES = tuple(f"NVIDIA_H100_80GB_HBM3_{kernel.upper()}.json" for kernel in MOE_KERNELS)

CORNERS = {"block_n": (16, 64), "group_size_m": (8,), "num_warps": (4, 8), "num_stages": (2, 3)}
"""With block_m 16, 32, 64 and 128: 64 configs of expand, 128 of shrink."""

TILE = {"block_m": 64, "group_size_m": 8, "num_warps": 4, "num_stages": 3}
DEFAULTS = {
    "shrink": {**TILE, "block_n": 16, "block_k": 32, "split_k": 1},
    "expand": {**TILE, "block_n": 64, "block_k": 16},
}
"""The default configs where the small recordings are taken to have been made."""


@cache
def whole(m: int) -> tuple[Recording, ...]:
    """The four recordings of one m, in the order in which a layer runs the kernels."""
    found = {r.problem.kernel: r for r in read_recordings(MOE) if r.problem.m == m}
    return tuple(found[kernel] for kernel in MOE_KERNELS)


def small(m: int) -> list[Recording]:
    """The same on small grids, the default configs among them."""
    return [_sliced(recording) for recording in whole(m)]


def _sliced(recording: Recording) -> Recording:
    own = {"block_k": (32, 64), "split_k": (1, 4)} if "shrink" in recording.problem.kernel else {"block_k": (16, 64)}
    corners = {"block_m": recording.space.ranges["block_m"], **CORNERS, **own}
    space = SearchSpace.of({name: corners[name] for name in recording.space.names})
    entries = {config_key(config): recording.entries[config_key(config)] for config in space}
    path = Path(recording_file_name(recording.gpu, recording.problem))
    metadata = {name: value for name, value in recording.metadata.items() if name != "gpu_info"}
    metadata[DEFAULT_CONFIG] = DEFAULTS["shrink" if "shrink" in recording.problem.kernel else "expand"]
    default_time_us = entries[config_key(metadata[DEFAULT_CONFIG])].time_us
    return replace(
        recording, path=path, space=space, entries=entries, metadata=metadata, default_time_us=default_time_us
    )


def best_sum_us(recordings: list[Recording] | tuple[Recording, ...]) -> float:
    """Smallest sum of times under one block_m, found by trying every value, in us."""
    sums = []
    for value in recordings[0].space.ranges["block_m"]:
        of_value = [
            [e.time_us for key, e in r.entries.items() if dict(key)["block_m"] == value and e.time_us is not None]
            for r in recordings
        ]
        sums.append(min(sum(times) for times in product(*([min(t)] for t in of_value))))
    return min(sums)
