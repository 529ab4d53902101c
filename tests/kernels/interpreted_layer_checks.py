"""Layers with their adapters under Triton's interpreter. Run by ``test_interpreted.py`` as its siblings are."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("runs in a process with TRITON_INTERPRET=1", allow_module_level=True)

from unittest.mock import patch

import torch
from layer_cases import check_linear, check_mixture, default, error, forget

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import Experts
from bo_tune.core.surroundings import EXPAND, MOE_KERNELS, SHRINK, Batch, Linear, Mixture
from bo_tune.kernels.chain import Chain
from bo_tune.kernels.operations import operation

BATCH = Batch(3, 8, 20, "float16")
LINEAR = Linear(96, (48, 32, 32))
MIXTURES = [Mixture(64, up, 32, Experts(6, 3)) for up in (64, 32)]
"""Of all experts: rows of others stay as they were in memory, and the interpreter warns of what it may find there."""

COPIES = 3


def choice_of(*problems):
    """Default configs, but for shares of k: each is a program, and the interpreter runs one after the other."""
    return {
        problem.kernel: config | ({"split_k": 2} if "split_k" in config else {})
        for problem in problems
        for config in [default(problem)]
    }


def copies_of(layer):
    chain = Chain([layer], BATCH, operation, l2_bytes=1, device=torch.device("cpu"), conditions=Conditions())
    assert chain.copies == COPIES
    (copies,) = chain.layers
    forget(copies)
    return copies


@pytest.mark.parametrize("copy", [0, COPIES - 1])
def test_a_linear_adds_what_its_adapters_do(copy):
    layer = copies_of(LINEAR)
    layer.run(copy, choice_of(*LINEAR.kernels(BATCH)))
    check_linear(layer, copy)


def test_each_kernel_of_a_linear_takes_the_config_of_its_name():
    layer = copies_of(LINEAR)
    choice = {EXPAND: {"block_m": 16}, SHRINK: {"block_m": 32}}
    with patch.object(layer.shrink, "launch") as shrink, patch.object(layer.expand, "launch") as expand:
        layer.run(1, choice)
    shrink.assert_called_once_with(layer.shrinks[1], choice[SHRINK])
    expand.assert_called_once_with(layer.expands[1], choice[EXPAND])


def test_a_linear_without_a_choice_is_its_base_product():
    layer = copies_of(LINEAR)
    layer.run(1, None)
    assert error(layer._y, layer._x.float() @ layer.base.weights[1].float().t()) < 1e-2


@pytest.mark.parametrize("mixture", MIXTURES, ids=["gated", "without a gate"])
def test_experts_add_what_their_adapters_do(mixture):
    layer = copies_of(mixture)
    layer.run(1, choice_of(*mixture.kernels(BATCH)))
    assert tuple(layer.inputs) == MOE_KERNELS
    check_mixture(layer, 1)
