"""Copies of a layer's experts with their adapters, run as an engine does.

First tokens are sorted into blocks. Then come the first base product, the adapters of gate and up, and the activation;
then the second base product and the adapters of down; and last the sum over the experts of a token.

The base products are torch's grouped ones, over tokens that were sorted beforehand, in place of the engine's kernel.
They read the same weights, and need no compiling and no config. Their results are in the order of the experts, not of
the tokens. That changes nothing that is timed.
"""

from collections.abc import Sequence

import torch

from bo_tune.core.conclusion import SHARED
from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import LoraProblem
from bo_tune.core.surroundings import Batch, Choice, Mixture
from bo_tune.kernels.lora.operation import draw, dtype_of
from bo_tune.kernels.lora.tokens import TokenGroups
from bo_tune.kernels.moe.blocks import draw_experts
from bo_tune.kernels.moe.inputs import MoeInputs, MoeOperation
from bo_tune.kernels.moe.sorting import sort_into
from bo_tune.kernels.moe.spec import one_launch_problems
from bo_tune.kernels.operation import OperationOf

WEIGHT_SCALE = 0.02


class Visits:
    """The experts that a copy's tokens visit.

    Args:
        chosen: experts of each token, int32 ``[T, K]``.
        local: number of experts on this rank.

    Attributes:
        groups: the tokens by adapter.
        order: the pairs of token and expert in the order of the experts, int64 ``[P]``.
        ends: for each expert of this rank, the number of pairs that go to it or to one before it, int32 ``[E]``.
    """

    def __init__(self, groups: TokenGroups, chosen: torch.Tensor, local: int) -> None:
        self.groups, self.chosen = groups, chosen
        flat = chosen.flatten().long()
        self.order = flat.sort(stable=True).indices
        self.ends = flat.bincount(minlength=local)[:local].cumsum(0).to(torch.int32)


class MixtureCopies:
    """Copies of a layer's experts. Each has its own weights and visits; activations and results are shared.

    Args:
        groups: the tokens of each copy, by adapter.

    Attributes:
        problems: problems by kernel: those of two launches per product, and those of one.
        inputs: inputs of each launched kernel, one per copy.
        visits: visits of each copy.
        up: results of gate and up, ``[P, up]``.
        down: results of down, ``[P, hidden]``.
    """

    def __init__(
        self,
        mixture: Mixture,
        batch: Batch,
        operation: OperationOf,
        groups: Sequence[TokenGroups],
        generator: torch.Generator,
        conditions: Conditions,
    ) -> None:
        self._mixture, self._operation, self._generator = mixture, operation, generator
        device, experts = generator.device, mixture.experts
        pairs, problems = batch.m * experts.top_k, mixture.kernels(batch)
        self.problems = {one.kernel: one for one in (*problems, *one_launch_problems(problems))}
        self.inputs: dict[str, list[MoeInputs]] = {}
        dtype = dtype_of(problems[0])

        def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return draw(shape, dtype, generator, device, scale)

        self.x = drawn(batch.m, mixture.hidden)
        self.up, self.between = drawn(pairs, mixture.up), drawn(pairs, mixture.down)
        self.down, self.result = drawn(pairs, mixture.hidden), drawn(batch.m, mixture.hidden)
        chosen = [draw_experts(batch.m, experts, generator, device, conditions) for _ in groups]
        self.visits = [Visits(own, one, experts.local) for own, one in zip(groups, chosen, strict=True)]
        self._sorted = [self.x[visits.order // experts.top_k] for visits in self.visits]
        self._routing = torch.rand((batch.m, experts.top_k), generator=generator, device=device)
        # Transposed views of weights that lie in memory as the engine's do, with an expert's rows one after the other.
        up, down = (mixture.up, mixture.hidden), (mixture.hidden, mixture.down)
        self.first = [drawn(experts.local, *up, scale=WEIGHT_SCALE).mT for _ in groups]
        self.second = [drawn(experts.local, *down, scale=WEIGHT_SCALE).mT for _ in groups]

    @property
    def bytes(self) -> int:
        """Device memory in use, in bytes."""
        shared = (self.x, self.up, self.between, self.down, self.result, *self._sorted)
        adapters = [w for inputs in self.inputs.values() for one in inputs for w in (*one.weights, *one.expanding)]
        return sum(tensor.nbytes for tensor in (*self.first, *self.second, *shared, *adapters))

    def run(self, copy: int, configs: Choice | None) -> None:
        """Launch one copy; without adapters if configs is None."""
        ends = self.visits[copy].ends
        self._sort(copy, configs or {})
        self.up.copy_(_grouped(self._sorted[copy], self.first[copy], ends))
        self._launch(copy, configs or {}, "w13")
        self._activate()
        self.down.copy_(_grouped(self.between, self.second[copy], ends))
        self._launch(copy, configs or {}, "w2")
        torch.sum(self.down.view(*self._routing.shape, -1), dim=1, out=self.result)

    def _sort(self, copy: int, configs: Choice) -> None:
        """Sort tokens into blocks if kernels use blocks. Their first launch, before any timed one, has shown that."""
        for kernel, config in configs.items():
            inputs = self._inputs(kernel)[copy]
            if config[SHARED] in inputs.blocks:
                sort_into(inputs.blocks[config[SHARED]], inputs, config[SHARED])
                return

    def _launch(self, copy: int, configs: Choice, part: str) -> None:
        for kernel, config in configs.items():
            if part in kernel:
                operation, inputs = self._operation(kernel), self._inputs(kernel)[copy]
                assert isinstance(operation, MoeOperation)
                if not operation.expands:  # what it hands on is added to
                    operation.reset(inputs)
                operation.launch(inputs, config)

    def _activate(self) -> None:
        if self._mixture.is_gated:
            half = self._mixture.down
            torch.mul(torch.nn.functional.silu(self.up[:, :half]), self.up[:, half:], out=self.between)
        else:
            torch.clamp_min(self.up, 0, out=self.between)

    def _inputs(self, kernel: str) -> list[MoeInputs]:
        if kernel not in self.inputs:
            self.inputs[kernel] = [self._made(self.problems[kernel], copy) for copy in range(len(self.visits))]
        return self.inputs[kernel]

    def _made(self, problem: LoraProblem, copy: int) -> MoeInputs:
        """Return a kernel's inputs. They share the same tensors with the layer's other kernels as in an engine."""
        operation, visits = self._operation(problem.kernel), self.visits[copy]
        assert isinstance(operation, MoeOperation)
        inputs = operation.assemble_routed(problem, visits.groups, visits.chosen, self._generator, self.x.device)
        inputs.routing = self._routing
        if operation.shrinks:
            inputs.x = self.x if operation.is_w13 else self.between
        else:
            shrunk = self._inputs(problem.kernel.replace("expand", "shrink"))[copy]
            inputs.x, inputs.ordered = shrunk.out, shrunk.ordered
        if operation.expands:
            inputs.out = self.up if operation.is_w13 else self.down
        others = [known[copy] for known in self.inputs.values()]
        inputs.blocks = others[0].blocks if others else inputs.blocks
        return inputs


def _grouped(x: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(x, weights, offs=ends)
