"""A layer that ran once with adapters, against the naive kernels: on a GPU, and under Triton's interpreter."""

import torch

from bo_tune.core.problem import LoraProblem
from bo_tune.core.surroundings import Choice
from bo_tune.kernels.lora import naive as dense
from bo_tune.kernels.lora.linear import LinearCopies
from bo_tune.kernels.moe import naive
from bo_tune.kernels.moe.mixture import MixtureCopies
from bo_tune.kernels.registry import kernel_spec


def default(problem: LoraProblem) -> dict[str, int]:
    return kernel_spec(problem.kernel).default_config(problem)


def choice_of(*problems: LoraProblem) -> Choice:
    return {problem.kernel: default(problem) for problem in problems}


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(found.float() - right.float()) / torch.linalg.vector_norm(right.float()))


def forget(layer: LinearCopies | MixtureCopies) -> None:
    """Overwrite what the layer computed."""
    if isinstance(layer, LinearCopies):
        results = [layer._y, layer._rank]
    else:
        results = [layer.up, layer.between, layer.down, layer.result]
    for tensor in results:
        tensor.fill_(torch.nan)


def check_linear(layer: LinearCopies, copy: int) -> None:
    """Assert that the layer holds the base product of a copy and what its adapters add."""
    shrink, expand = layer.shrinks[copy], layer.expands[copy]
    groups = shrink.groups.assignment
    low = dense.lora_shrink(shrink.x, shrink.weights, groups, shrink.scale)
    base = (shrink.x.float() @ layer.base.weights[copy].float().t()).to(shrink.x.dtype)
    assert error(layer._y, dense.lora_expand(low, expand.weights, groups, base, add_inputs=True)) < 2e-2


def check_mixture(layer: MixtureCopies, copy: int) -> None:
    """Assert that the layer holds both base products of a copy and what their adapters add."""
    visits = layer.visits[copy]
    top_k = visits.chosen.shape[1]
    inputs = {kernel: made[copy] for kernel, made in layer.inputs.items()}
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

    known, held = int(visits.ends[-1]), len(layer.first[copy])
    assert known == int((visits.chosen < held).sum())
    first = layer.up.clone()
    first[:known] = base(layer.x[visits.order // top_k], layer.first[copy]).to(first.dtype)
    right = adapted("w13", layer.x, first, None)
    assert error(layer.up[:known], right[:known]) < 2e-2
    second = layer.down.clone()
    second[:known] = base(layer.between, layer.second[copy]).to(second.dtype)
    right = adapted("w2", layer.between, second, layer._routing.flatten())
    assert error(layer.down[:known], right[:known]) < 2e-2
    if known == visits.chosen.numel():
        assert error(layer.result, layer.down.view(len(visits.chosen), top_k, -1).sum(1)) < 1e-2
