"""Finds the layer of a model that a kernel's problem belongs to, to time it in place."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.core.surroundings import MOE_KERNELS, Layer, Linear, Mixture
from bo_tune.engines.models.layers import LoraLayer
from bo_tune.engines.models.serving import ModelStudy


def layers_around(model: ModelStudy, problems: Mapping[Problem, Sequence[str]]) -> dict[Problem, Layer]:
    """Return the layer of each problem that has one. If there are several, return the model's first.

    A layer that runs once per sequence (the vocabulary's) does not count: a model has only one, of hundreds of MB.
    Ranks that share an adapter's rank communicate between its two kernels, so their layers do not count either. Nor do
    experts whose adapters run on a stream of their own.

    Args:
        problems: problems with the names of the layers that they serve.
    """
    layers = [layer for layer in model.layers if not layer.per_sequence and layer.shrink_shards == 1]
    experts = [] if model.dual_stream else mixtures(problems)
    found: dict[Problem, Layer] = {}
    for problem, names in problems.items():
        linears = (linear for layer in layers if layer.name in names for linear in _linears(layer, model))
        places: Iterator[Layer] = chain(experts, linears)
        around = next((place for place in places if place.holds(problem)), None)
        if around is not None:
            found[problem] = around
    return found


def mixtures(problems: Iterable[Problem]) -> list[Mixture]:
    """Return the layers' experts that problems belong to, except those whose ranks share an adapter's rank."""
    of_gate_and_up = (p for p in problems if isinstance(p, LoraProblem) and p.kernel in MOE_KERNELS[:2])
    found = dict.fromkeys(map(Mixture.of, of_gate_and_up))
    return [mixture for mixture in found if mixture.experts.shards == 1]


def _linears(layer: LoraLayer, model: ModelStudy) -> list[Linear]:
    """Return a layer with each kind of expand that its engine runs there; empty for a layer without shrink."""
    if layer.shrink_k is None:
        return []
    adds = model.add_inputs or layer.adds(dual_stream=model.dual_stream)
    return [Linear(layer.shrink_k, layer.slice_sizes, one, model.shape.weights) for one in adds]
