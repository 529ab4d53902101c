"""The decode steps of a model's Mamba-2 layers, as one rank computes them.

P ranks share the heads. They also share the groups if there is a multiple of P; otherwise each rank has one.
"""

from bo_tune.engines.models.serving import ModelStudy
from bo_tune.errors import ModelError
from bo_tune.kernels.mamba.step import MambaStep

MAMBA = "mamba"
"""Name of the layers in tables."""


def held_mamba(model: ModelStudy) -> list[MambaStep]:
    """Return the steps that decode the numbers of sequences in the model's ``ms``, up to the engine's maximum.

    If the maximum is below all of them, there is one step with the maximum.

    Raises:
        ModelError: the model has no such layers, or their heads cannot be sharded over the ranks.
    """
    mamba, ranks = model.shape.mamba, model.tensor_parallel
    if mamba is None:
        raise ModelError(f"{model.shape.source}: this model has no Mamba-2 layers")
    if mamba.heads % ranks:
        raise ModelError(
            f"{model.shape.source}: heads of the Mamba layers: expected a multiple of the tensor-parallel "
            f"size {ranks}, got {mamba.heads}"
        )
    heads, dtype = mamba.heads // ranks, model.dtype or model.shape.dtype
    groups = mamba.groups // ranks if mamba.groups % ranks == 0 else 1
    states = model.state_dtype or mamba.state_dtype or dtype
    sequences = [m for m in model.ms if m <= model.max_sequences] or [model.max_sequences]
    return [MambaStep(count, heads, mamba.headdim, mamba.states, groups, dtype, states) for count in sequences]
