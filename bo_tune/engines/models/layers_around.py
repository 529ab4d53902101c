"""Which layer of a model a kernel's problem belongs to, for timing it in place."""

from collections.abc import Mapping, Sequence

from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.surroundings import Layer, Linear, Mixture, Weights
from bo_tune.engines.models.experts import experts_of, held_experts, rounded_up
from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.models.serving import ModelStudy


def layers_around(model: ModelStudy, problems: Mapping[Problem, Sequence[str]]) -> dict[Problem, Layer]:
    """Return the layer of each problem that has one; of several layers of a model the first.

    A layer that runs once for each sequence (the vocabulary's) has none: it is one of a model, and hundreds of MB.
    Ranks that share an adapter's rank talk to each other between its two kernels, so their layers have none either, nor
    have experts whose adapters run on a stream of their own.

    Args:
        problems: with the names of the layers that they serve.
    """
    layers = [layer for layer in model.layers if not layer.per_sequence and layer.shrink_shards == 1]
    mixture = mixture_of(model) if model.has_experts and not model.dual_stream else None
    found: dict[Problem, Layer] = {}
    for problem, names in problems.items():
        if mixture is not None and mixture.holds(problem):
            found[problem] = mixture
        elif isinstance(problem, LoraProblem):
            for layer in (layer for layer in layers if layer.name in names):
                adds = model.add_inputs or layer.adds(dual_stream=model.dual_stream)
                linear = _linear(layer, problem, adds, model.shape.weights)
                if linear is not None:
                    found.setdefault(problem, linear)
    return found


def mixture_of(model: ModelStudy) -> Mixture | None:
    """Return the experts of a layer of a model that has some, as one rank runs them.

    Returns:
        None where ranks share an adapter's rank.

    Raises:
        ModelError: they cannot be spread over ranks like this.
    """
    moe = experts_of(model.shape)
    experts, down = held_experts(
        model.shape, model.tensor_parallel, expert_parallel=model.expert_parallel, fully_sharded=model.fully_sharded
    )
    hidden = rounded_up(moe.hidden, moe.padding.hidden)
    return None if experts.shards > 1 else Mixture(hidden, 2 * down if moe.gated else down, down, experts)


def _linear(layer: LoraLayer, problem: LoraProblem, adds: Sequence[bool], weights: Weights) -> Linear | None:
    """Return a layer, if the problem is one of its two kernels'."""
    if layer.shrink_k is None:
        return None
    places = (Linear(layer.shrink_k, layer.slice_sizes, one, weights) for one in adds)
    return next((linear for linear in places if linear.holds(problem)), None)
