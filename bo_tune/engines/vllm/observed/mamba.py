"""From an engine's lookups for Mamba-2 layers to the problems of their kernel."""

from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.engines.vllm.observed import names
from bo_tune.engines.vllm.observed.reading import Observed, Size
from bo_tune.errors import InputError
from bo_tune.kernels.mamba.step import MambaStep


class _Arguments(BaseModel):
    """The arguments of vLLM's ``try_get_optimal_ssm_config``, by its own names."""

    model_config = ConfigDict(strict=True, frozen=True)

    headdim: Size
    dstate: Size
    batch: Size
    nheads: Size
    cache_dtype: Literal["float32", "bfloat16", "float16"]


def observed_steps(observed: Observed, sequences: Collection[int] = ()) -> list[MambaStep]:
    """Return the steps to tune for an engine's lookups.

    Lookups do not tell how many groups of heads share B and C, nor the type of activations. One group and bfloat16 are
    assumed. Both matter little, because the states are far larger.

    Args:
        sequences: numbers of sequences to have keys for, up to the one nearest to the largest number looked up. If
            empty, those that were looked up.

    Raises:
        InputError: a lookup has other arguments than the kernel's sizes.
    """
    shapes: dict[MambaStep, set[int]] = {}
    for line in observed.of_kind(names.MAMBA):
        try:
            asked = _Arguments.model_validate(dict(line.arguments))
        except ValidationError:
            raise InputError(f"{observed.source}: bo_tune cannot use this lookup: {dict(line.arguments)}") from None
        shape = MambaStep(1, asked.nheads, asked.headdim, asked.dstate, state_dtype=asked.cache_dtype)
        shapes.setdefault(shape, set()).add(asked.batch)
    found = []
    for shape, counts in shapes.items():
        keys = sorted(sequences or counts)
        last = nearest_of(keys, max(counts))
        found += [_with(shape, key) for key in keys if key <= last]
    return found


def _with(shape: MambaStep, sequences: int) -> MambaStep:
    return MambaStep(sequences, shape.heads, shape.headdim, shape.dstate, state_dtype=shape.state_dtype)
