"""A layer in a graph computes what its kernels do, and its time grows with theirs."""

from dataclasses import replace

import pytest
import torch
from helpers import H100
from layer_cases import check_linear, choice_of, default, forget

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.core.surroundings import Batch, Linear, Surroundings
from bo_tune.kernels.chain import Chain
from bo_tune.kernels.lora.linear import LinearCopies
from bo_tune.kernels.operations import operation
from bo_tune.measure.gpu.layer import LayerTimer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

LINEAR = Linear(2048, (2048, 512, 512))
SHRINK = LoraProblem("lora_shrink", 4, 3, 24, 2048, 16)
BATCH = Batch(4, 16, 24)
DEVICE = torch.device("cuda", 0)


OTHER = Linear(1024, (2048,))


def chain_of(*linears: Linear, l2_bytes: int = H100.l2_bytes) -> Chain:
    conditions = Conditions(dual_stream=not all(linear.adds for linear in linears))
    return Chain(linears, BATCH, operation, l2_bytes=l2_bytes, device=DEVICE, conditions=conditions)


@pytest.mark.parametrize("adds", [False, True])
def test_the_last_layer_of_a_replayed_chain_is_right(adds: bool) -> None:
    linears = [replace(linear, adds=adds) for linear in (LINEAR, OTHER)]
    chain = chain_of(*linears)
    graph = chain.graph([choice_of(*linear.kernels(BATCH)) for linear in linears])
    for layer in chain.layers:
        forget(layer)
    graph.replay()
    torch.cuda.synchronize()
    for layer in chain.layers:
        assert isinstance(layer, LinearCopies)
        check_linear(layer, -1)


def test_weights_of_all_copies_together_are_several_times_the_cache() -> None:
    chain = chain_of(LINEAR, OTHER, l2_bytes=8 << 20)
    once = LINEAR.weight_bytes + OTHER.weight_bytes
    assert (chain.copies - 1) * once >= 4 * (8 << 20)
    assert chain.bytes >= chain.copies * once


def test_copies_serve_steps_of_a_mix_of_adapters_in_turn() -> None:
    chain = Chain([OTHER], BATCH, operation, l2_bytes=1, device=DEVICE, conditions=Conditions(), active=(1, 4))
    used = [len(inputs.groups.assignment.unique()) for inputs in chain.layers[0].shrinks]
    assert used == [1, 4, 1, 4], "as often each: rounded up from three copies"


def test_a_step_takes_longer_with_adapters_and_longest_with_bad_configs() -> None:
    timer = LayerTimer(operation, H100, DEVICE, Conditions())
    good = [choice_of(*linear.kernels(BATCH)) for linear in (LINEAR, OTHER)]
    slowed = {"block_n": 16, "block_k": 16, "split_k": 1, "num_warps": 8}
    bad = [{**one, SHRINK.kernel: {**one[SHRINK.kernel], **slowed}} for one in good]
    timed, python_us = timer.time_step([LINEAR, OTHER], BATCH, [(None, None), good, bad], 20)
    bare, fast, slow = (sorted(times)[len(times) // 2] for times in timed.runtimes_us)
    assert bare < fast < slow
    assert python_us is None, "the project's own kernels are no engine's"


def test_a_layer_takes_longer_with_adapters_and_longest_with_a_bad_config() -> None:
    good = default(SHRINK)
    bad = {**good, "block_n": 16, "block_k": 16, "split_k": 1, "num_warps": 8}
    timer = LayerTimer(operation, H100, DEVICE, Conditions())
    around = Surroundings(LINEAR, choice_of(LINEAR.beside(SHRINK)))
    timed = timer.time_in_turn([SHRINK], around, [[good], [bad], None], 20)
    fast, slow, bare = (sorted(times)[len(times) // 2] for times in timed.runtimes_us)
    assert bare < fast < slow
    spread = [sorted(times)[-5] / sorted(times)[4] for times in timed.runtimes_us]
    assert max(spread) < 1.2, spread
