"""Which linear layer of a model a kernel's problem belongs to, for timing it in place."""

from collections.abc import Mapping, Sequence

from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.surroundings import Linear
from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.models.serving import ModelStudy


def linears(model: ModelStudy, problems: Mapping[Problem, Sequence[str]]) -> dict[Problem, Linear]:
    """Return the layer of each problem that has one; of several layers of a model the first.

    A layer that runs once for each sequence (the vocabulary's) has none: it is one of a model, and hundreds of MB.
    Ranks that share an adapter's rank talk to each other between its two kernels, so their layers have none either.

    Args:
        problems: with the names of the layers that they serve.
    """
    by_name = {layer.name: layer for layer in model.layers if not layer.per_sequence and layer.shrink_shards == 1}
    found: dict[Problem, Linear] = {}
    for problem, names in problems.items():
        if isinstance(problem, LoraProblem):
            for layer in (by_name[name] for name in names if name in by_name):
                adds = model.add_inputs or layer.adds(dual_stream=model.dual_stream)
                linear = _linear(layer, problem, adds)
                if linear is not None:
                    found.setdefault(problem, linear)
    return found


def _linear(layer: LoraLayer, problem: LoraProblem, adds: Sequence[bool]) -> Linear | None:
    """Return a layer, if the problem is one of its two kernels'."""
    if layer.shrink_k is None:
        return None
    places = (Linear(layer.shrink_k, layer.slice_sizes, one) for one in adds)
    return next((linear for linear in places if linear.holds(problem)), None)
