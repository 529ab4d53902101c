"""A layer's experts in a graph compute what their kernels do, beside base products of every kind."""

import pytest
import torch
from helpers import H100
from layer_cases import check_mixture, choice_of, default, error, forget

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Experts
from bo_tune.core.surroundings import Batch, Linear, Mixture, Surroundings, Weights
from bo_tune.kernels.chain import Chain
from bo_tune.kernels.moe.mixture import MixtureCopies
from bo_tune.kernels.operations import operation
from bo_tune.measure.gpu.layer import LayerTimer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

MIXTURES = [
    Mixture(512, 512, 256, Experts(16, 4)),
    Mixture(512, 256, 256, Experts(16, 4)),
    Mixture(512, 512, 256, Experts(16, 4, local=8)),
]
BATCH = Batch(4, 16, 48)
DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize("mixture", MIXTURES, ids=["gated", "without a gate", "half of the experts"])
def test_the_last_layer_of_a_replayed_chain_is_right(mixture: Mixture) -> None:
    chain = Chain([mixture], BATCH, operation, l2_bytes=H100.l2_bytes, device=DEVICE, conditions=Conditions())
    graph = chain.graph([choice_of(*mixture.kernels(BATCH))])
    (layer,) = chain.layers
    assert isinstance(layer, MixtureCopies)
    forget(layer)
    graph.replay()
    torch.cuda.synchronize()
    check_mixture(layer, -1)


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
