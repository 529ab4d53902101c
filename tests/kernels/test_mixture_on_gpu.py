"""A layer's experts in a graph compute what their kernels do, beside base products of every kind."""

import pytest
import torch
from helpers import H100

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Experts, LoraProblem
from bo_tune.core.surroundings import Batch, Linear, Mixture, Surroundings, Weights
from bo_tune.kernels.chain import Chain
from bo_tune.kernels.moe import naive
from bo_tune.kernels.moe.mixture import MixtureCopies
from bo_tune.kernels.operations import operation
from bo_tune.kernels.registry import kernel_spec
from bo_tune.measure.gpu.layer import LayerTimer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

MIXTURES = [
    Mixture(512, 512, 256, Experts(16, 4)),
    Mixture(512, 256, 256, Experts(16, 4)),
    Mixture(512, 512, 256, Experts(16, 4, local=8)),
]
BATCH = Batch(4, 16, 48)
DEVICE = torch.device("cuda", 0)


def default(problem: LoraProblem) -> dict[str, int]:
    return kernel_spec(problem.kernel).default_config(problem)


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(found.float() - right.float()) / torch.linalg.vector_norm(right.float()))


@pytest.mark.parametrize("mixture", MIXTURES, ids=["gated", "without a gate", "half of the experts"])
def test_the_last_layer_of_a_replayed_chain_is_right(mixture: Mixture) -> None:
    chain = Chain([mixture], BATCH, operation, l2_bytes=H100.l2_bytes, device=DEVICE, conditions=Conditions())
    configs = {problem.kernel: default(problem) for problem in mixture.kernels(BATCH)}
    graph = chain.graph([configs])
    (layer,) = chain.layers
    assert isinstance(layer, MixtureCopies)
    for tensor in (layer.up, layer.between, layer.down, layer.result):
        tensor.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()

    visits, top_k, local = layer.visits[-1], mixture.experts.top_k, mixture.experts.local
    here = visits.chosen.flatten() < local
    inputs = {kernel: made[-1] for kernel, made in layer.inputs.items()}
    routed = visits.groups.assignment, visits.chosen

    def base(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """In the order of the experts, as the layer's: the first rows are those of this rank's."""
        rows, start = [], 0
        for expert, end in enumerate(visits.ends.tolist()):
            rows.append(x[start:end].float() @ weights[expert].float())
            start = end
        return torch.cat(rows)

    def adapted(part: str, x: torch.Tensor, initial: torch.Tensor, routing: torch.Tensor | None) -> torch.Tensor:
        shrink, expand = inputs[f"fused_moe_lora_{part}_shrink"], inputs[f"fused_moe_lora_{part}_expand"]
        low = naive.moe_shrink(x, shrink.weights, *routed).to(initial.dtype)
        return naive.moe_expand(low, expand.weights, *routed, initial, routing)

    known = int(visits.ends[-1])
    assert known == int(here.sum())
    first = layer.up.clone()
    first[:known] = base(layer.x[visits.order // top_k], layer.first[-1]).to(first.dtype)
    right = adapted("w13", layer.x, first, None)
    assert error(layer.up[:known], right[:known]) < 2e-2
    second = layer.down.clone()
    second[:known] = base(layer.between, layer.second[-1]).to(second.dtype)
    right = adapted("w2", layer.between, second, layer._routing.flatten())
    assert error(layer.down[:known], right[:known]) < 2e-2
    if local == mixture.experts.count:
        assert error(layer.result, layer.down.view(BATCH.m, top_k, -1).sum(1)) < 1e-2


def test_a_layer_takes_longer_with_adapters_and_longest_with_bad_configs() -> None:
    mixture = Mixture(2048, 1536, 768, Experts(64, 8))
    problems = mixture.kernels(BATCH)
    good = [default(problem) for problem in problems]
    bad = [{**config, "block_n": 16, "block_k": 32, "num_warps": 8, "num_stages": 2} for config in good]
    timer = LayerTimer(operation, H100, DEVICE, Conditions())
    timed = timer.time_in_turn(problems, Surroundings(mixture), [good, bad, None], 20)
    fast, slow, bare = (sorted(times)[len(times) // 2] for times in timed.runtimes_us)
    assert bare < fast < slow


@pytest.mark.parametrize("weights", list(Weights))
@pytest.mark.parametrize("m", [1, 64])
def test_a_base_product_is_right_however_its_weights_are_stored(weights: Weights, m: int) -> None:
    linear = Linear(1024, (512, 256), weights=weights)
    layers = {}
    for stored in (linear, Linear(1024, (512, 256))):
        chain = Chain([stored], Batch(4, 16, m), operation, l2_bytes=1, device=DEVICE, conditions=Conditions(), seed=3)
        chain.graph([None]).replay()
        torch.cuda.synchronize()
        (layers[stored],) = chain.layers
    found, plain = layers[linear], layers[Linear(1024, (512, 256))]
    assert torch.equal(found._x, plain._x)
    right = plain._x.float() @ plain.base.weights[-1].float().t()
    assert error(found._y, right) < {Weights.BITS_16: 1e-2, Weights.FP8: 8e-2, Weights.INT4: 0.2}[weights]
