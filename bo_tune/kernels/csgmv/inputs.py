"""Inputs, references and tolerances of chunked LoRA products, whoever wrote the kernels.

Notation: T tokens, L adapters, S slices, R rank, H width of the input, N summed width of the outputs.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import ConfigKey
from bo_tune.kernels.call import PreparedLaunch
from bo_tune.kernels.csgmv.step import EXPAND, CsgmvStep
from bo_tune.kernels.lora.operation import draw
from bo_tune.kernels.lora.tokens import draw_assignment
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, META, KernelOperation, Verdict

RELATIVE_TOLERANCE = {"bfloat16": 1e-2, "float16": 2e-3}
"""The output is rounded once or twice to the weights' type: up to 2**-8 (bfloat16) or 2**-11 each time."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """A step's tokens in chunks, as the kernels read them. All int32.

    Attributes:
        starts: first position of each chunk among the sorted tokens, then the number of tokens ``[chunks + 1]``.
        adapters: adapter of each chunk ``[chunks]``.
        tokens: token numbers, sorted by adapter ``[T]``.
    """

    starts: torch.Tensor
    adapters: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, assignment: torch.Tensor, size: int) -> "Chunks":
        """Cut tokens into chunks of a size. The last chunk of each adapter holds the rest.

        Args:
            assignment: adapter of each token ``[T]``. Every token has one.
        """
        ordered = assignment.sort(stable=True)
        adapters, counts = torch.unique_consecutive(ordered.values.cpu(), return_counts=True)
        whose, lengths = list[int](), list[int]()
        for adapter, count in zip(adapters.tolist(), counts.tolist(), strict=True):
            pieces = [size] * (count // size) + [count % size] * bool(count % size)
            whose += [adapter] * len(pieces)
            lengths += pieces
        starts = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        starts[1:] = torch.tensor(lengths).cumsum(0)
        device = assignment.device
        of_chunks = torch.tensor(whose, dtype=torch.int32, device=device)
        return cls(starts.to(device), of_chunks, ordered.indices.to(torch.int32))

    @classmethod
    def of_nothing(cls, step: CsgmvStep) -> "Chunks":
        """Return as many chunks as there can be, on the meta device."""
        most = min(step.m, step.m // step.chunk + step.adapters)
        starts, adapters, tokens = (
            torch.empty(size, dtype=torch.int32, device=META) for size in (most + 1, most, step.m)
        )
        return cls(starts, adapters, tokens)


@dataclass(slots=True)
class CsgmvInputs:
    """Inputs of one problem.

    Attributes:
        x: ``[T, H]`` (shrink), ``[T, S·R]`` (expand).
        weights: ``[L, S·R, H]``, ``[L, N, R]``.
        out: ``[T, S·R]``, ``[T, N]``.
        initial: content of expand's output before each launch. Shrink does not read its output.
        assignment: adapter of each token, int32 ``[T]``.
        ranks: rank of each adapter, int32 ``[L]``.
        scalings: scaling of each adapter's output, float32 ``[L]``.
        offsets: columns where the output's slices begin and end, int32 ``[S + 1]``, on the device.
        offsets_known: the same on the CPU.
    """

    problem: SizedProblem
    x: torch.Tensor
    weights: torch.Tensor
    out: torch.Tensor
    initial: torch.Tensor
    assignment: torch.Tensor
    chunks: Chunks
    ranks: torch.Tensor
    scalings: torch.Tensor
    offsets: torch.Tensor
    offsets_known: torch.Tensor
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, init=False, repr=False)

    @property
    def batch(self) -> SimpleNamespace:
        """The step as the engine describes it to its launchers, if run without a CUDA graph."""
        chunks = self.chunks
        return SimpleNamespace(
            max_len=CsgmvStep.of(self.problem).chunk,
            use_cuda_graph=False,
            num_segments=len(chunks.adapters),
            seg_indptr=chunks.starts,
            weight_indices=chunks.adapters,
            permutation=chunks.tokens,
            lora_ranks=self.ranks,
            scalings=self.scalings,
        )


class CsgmvOperation(KernelOperation[SizedProblem, CsgmvInputs]):
    """The results of the products. The subclasses launch kernels that compute them.

    Shrink: ``out[t] = x[t] @ A[a].T`` for the adapter a of token t. Expand, for each slice s: ``out[t, s] += scaling[a]
    · x[t, s] @ B[a, s].T``.
    """

    def make_inputs(
        self, problem: SizedProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> CsgmvInputs:
        step, generator = CsgmvStep.of(problem), torch.Generator(device).manual_seed(seed)
        assignment = draw_assignment(step.m, step.adapters, generator, device, conditions)
        return self.assemble(problem, assignment, Chunks.of(assignment, step.chunk), generator)

    def meta_inputs(self, problem: SizedProblem) -> CsgmvInputs:
        step = CsgmvStep.of(problem)
        assignment = torch.empty(step.m, dtype=torch.int32, device=META)
        return self.assemble(problem, assignment, Chunks.of_nothing(step), None)

    def assemble(
        self, problem: SizedProblem, assignment: torch.Tensor, chunks: Chunks, generator: torch.Generator | None
    ) -> CsgmvInputs:
        """Draw inputs for tokens whose adapters are given. On the meta device, draw nothing."""
        step, device = CsgmvStep.of(problem), assignment.device
        dtype, stacked = getattr(torch, step.dtype), step.slices * step.rank
        read, written = (stacked, step.wide) if step.kernel == EXPAND else (step.k, stacked)
        weights = draw((step.adapters, written, step.length), dtype, generator, device, step.length**-0.5)
        initial = draw((step.m, written) if step.kernel == EXPAND else (0, written), dtype, generator, device)
        known = torch.tensor([0, *step.outputs], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return CsgmvInputs(
            problem,
            draw((step.m, read), dtype, generator, device),
            weights,
            torch.empty((step.m, written), dtype=dtype, device=device),
            initial,
            assignment,
            chunks,
            torch.full((step.adapters,), step.rank, dtype=torch.int32, device=device),
            draw((step.adapters,), torch.float32, generator, device),
            known.to(device),
            known,
        )

    def inputs_bytes(self, inputs: CsgmvInputs) -> int:
        return sum(tensor.nbytes for tensor in (inputs.x, inputs.weights, inputs.out, inputs.initial))

    def reset(self, inputs: CsgmvInputs) -> None:
        if len(inputs.initial):
            inputs.out.copy_(inputs.initial)

    def poison(self, inputs: CsgmvInputs) -> None:
        """Do as ``reset``, with NaN where the kernel does not add. In expand, a skipped element keeps its value."""
        inputs.out.fill_(torch.nan)
        self.reset(inputs)

    def right(self, inputs: CsgmvInputs) -> torch.Tensor:
        step, x = CsgmvStep.of(inputs.problem), inputs.x.float()
        found = inputs.initial.float() if len(inputs.initial) else torch.zeros_like(inputs.out, dtype=torch.float32)
        ends = inputs.offsets_known.tolist()
        for adapter in range(step.adapters):
            rows, weights = (inputs.assignment == adapter).nonzero().flatten(), inputs.weights[adapter].float()
            if step.kernel != EXPAND:
                found[rows] = x[rows] @ weights.T
                continue
            for number, (first, last) in enumerate(pairwise(ends)):
                low = x[rows, number * step.rank : (number + 1) * step.rank]
                found[rows, first:last] += inputs.scalings[adapter] * (low @ weights[first:last].T)
        return found

    def judge(self, inputs: CsgmvInputs, right: torch.Tensor) -> Verdict:
        difference = torch.linalg.vector_norm(inputs.out.float() - right)
        error = float(difference / torch.linalg.vector_norm(right))
        is_right = error <= RELATIVE_TOLERANCE[CsgmvStep.of(inputs.problem).dtype]
        return Verdict(error if error < torch.inf else None, "" if is_right else f"relative error {error:.3g}")
