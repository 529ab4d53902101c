"""Inputs, reference and tolerances of a Mamba-2 layer's decode step, whoever wrote the kernel.

Notation: B sequences, H heads, P channels of a head, N states of a channel, G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from bo_tune.core.conditions import Conditions
from bo_tune.core.problem import SizedProblem
from bo_tune.core.space import ConfigKey
from bo_tune.kernels.call import PreparedLaunch
from bo_tune.kernels.mamba.step import MambaStep
from bo_tune.kernels.operation import DEFAULT_CONDITIONS, META, KernelOperation, Verdict

RELATIVE_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 2e-3}
"""Tolerances of values that are computed in float32 and rounded once: by up to 2**-9 (bfloat16) or 2**-12, at random.
The engine's own exponential function is exact to 1e-6."""

SPARE = 1
"""Blocks of states before those of the sequences. The engine keeps the first one for rows that pad a step."""

SEQUENCES_AT_ONCE = 16
"""Sequences that the reference computes at once. It takes several times the memory of their states."""


@dataclass(frozen=True, slots=True)
class RightStep:
    """The right results of a step, in float32: the output, and the states afterwards."""

    out: torch.Tensor
    states: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Device memory in use, in bytes."""
        return self.out.nbytes + self.states.nbytes


@dataclass(slots=True)
class MambaInputs:
    """Inputs of one problem, in an engine's layout.

    Attributes:
        states: ``[SPARE + B, H, P, N]``, updated in place.
        places: block of states of each sequence, int32 ``[B]``.
        mixed: activations ``[B, H·P + 2·G·N]``, which x, B and C are parts of.
        steps: dt, ``[B, H]``.
        decay: A, negative, float32 ``[H]``.
        skip: D, ``[H]``.
        bias: bias of dt, ``[H]``.
        out: ``[B, H, P]``.
        seed: seed of the states, which are drawn anew whenever a launch is to be checked.
    """

    problem: SizedProblem
    states: torch.Tensor
    places: torch.Tensor
    mixed: torch.Tensor
    steps: torch.Tensor
    decay: torch.Tensor
    skip: torch.Tensor
    bias: torch.Tensor
    out: torch.Tensor
    seed: int
    prepared: dict[ConfigKey, PreparedLaunch] = field(default_factory=dict, init=False, repr=False)

    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return x ``[B, H, P]``, and B and C ``[B, G, N]``."""
        step = MambaStep.of(self.problem)
        wide, group = step.heads * step.headdim, step.groups * step.dstate
        x, b, c = self.mixed[:, :wide], self.mixed[:, wide : wide + group], self.mixed[:, wide + group :]
        shared = (-1, step.groups, step.dstate)
        return x.view(-1, step.heads, step.headdim), b.view(shared), c.view(shared)


class MambaOperation(KernelOperation[SizedProblem, MambaInputs]):
    """The result of the step. The subclasses launch a kernel that computes it.

    With ``dt' = softplus(dt + bias)``: ``state = exp(A · dt') · state + dt' · x ⊗ B`` and ``out = state · C + D · x``.

    Launches change the states. Timed launches go on from the changed ones: their time does not depend on the values,
    which decay rather than grow.
    """

    def make_inputs(
        self, problem: SizedProblem, *, seed: int, device: torch.device, conditions: Conditions = DEFAULT_CONDITIONS
    ) -> MambaInputs:
        step, generator = MambaStep.of(problem), torch.Generator(device).manual_seed(seed)
        places = torch.randperm(step.sequences, generator=generator, device=device) + SPARE
        inputs = self._assemble(problem, places.to(torch.int32), generator, seed)
        self.reset(inputs)
        return inputs

    def meta_inputs(self, problem: SizedProblem) -> MambaInputs:
        places = torch.empty(MambaStep.of(problem).sequences, dtype=torch.int32, device=META)
        return self._assemble(problem, places, None, 0)

    def _assemble(
        self, problem: SizedProblem, places: torch.Tensor, generator: torch.Generator | None, seed: int
    ) -> MambaInputs:
        step, device = MambaStep.of(problem), places.device
        dtype, rows = getattr(torch, step.dtype), step.sequences
        wide = step.heads * step.headdim + 2 * step.groups * step.dstate

        def drawn(shape: tuple[int, ...], kind: torch.dtype, low: float, high: float) -> torch.Tensor:
            if generator is None:
                return torch.empty(shape, dtype=kind, device=device)
            return torch.empty(shape, device=device).uniform_(low, high, generator=generator).to(kind)

        return MambaInputs(
            problem,
            torch.empty(
                (SPARE + rows, step.heads, step.headdim, step.dstate),
                dtype=getattr(torch, step.state_dtype),
                device=device,
            ),
            places,
            drawn((rows, wide), dtype, -2.0, 2.0),
            drawn((rows, step.heads), dtype, -1.0, 1.0),
            drawn((step.heads,), torch.float32, -2.0, -0.1),
            drawn((step.heads,), dtype, -1.0, 1.0),
            drawn((step.heads,), dtype, -1.0, 1.0),
            torch.empty((rows, step.heads, step.headdim), dtype=dtype, device=device),
            seed,
        )

    def inputs_bytes(self, inputs: MambaInputs) -> int:
        kept = (inputs.states, inputs.places, inputs.mixed, inputs.steps, inputs.out)
        return sum(tensor.nbytes for tensor in kept)

    def reset(self, inputs: MambaInputs) -> None:
        generator = torch.Generator(inputs.states.device).manual_seed(inputs.seed)
        inputs.states.normal_(generator=generator)

    def poison(self, inputs: MambaInputs) -> None:
        """Do as ``reset``, with NaN in the output. A skipped state shows because it keeps its old value."""
        self.reset(inputs)
        inputs.out.fill_(torch.nan)

    def right(self, inputs: MambaInputs) -> RightStep:
        self.reset(inputs)
        outs, states = zip(*_stepped(inputs), strict=True)
        return RightStep(torch.cat(outs), torch.cat(states))

    def judge(self, inputs: MambaInputs, right: RightStep) -> Verdict:
        step = MambaStep.of(inputs.problem)
        out = _error(inputs.out, right.out)
        rows = inputs.places.long()
        states = max(_error(inputs.states[rows[some]], right.states[some]) for some in _in_parts(step.sequences))
        allowed = {"output": (out, step.dtype), "states": (states, step.state_dtype)}
        wrong = [
            f"{name}: relative error {error:.3g}"
            for name, (error, dtype) in allowed.items()
            if not error <= RELATIVE_TOLERANCE[dtype]  # NaN is no better
        ]
        finite = all(error < torch.inf for error in (out, states))
        return Verdict(max(out, states) if finite else None, "; ".join(wrong))


def _error(found: torch.Tensor, right: torch.Tensor) -> float:
    """Return the distance of a result from the right one, relative to the latter."""
    return float(torch.linalg.vector_norm(found.float() - right) / torch.linalg.vector_norm(right))


def _in_parts(sequences: int) -> Iterator[slice]:
    """Yield slices of the sequences, one after the other."""
    for first in range(0, sequences, SEQUENCES_AT_ONCE):
        yield slice(first, first + SEQUENCES_AT_ONCE)


def _stepped(inputs: MambaInputs) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield outputs and states after the step in float32, some sequences at a time."""
    step, parts = MambaStep.of(inputs.problem), inputs.parts()
    heads = step.heads // step.groups
    decay, skip, bias = inputs.decay[:, None, None], inputs.skip.float()[:, None], inputs.bias.float()
    for rows in _in_parts(step.sequences):
        x, b, c = (part[rows].float() for part in parts)
        b, c = (one.repeat_interleave(heads, dim=1)[:, :, None, :] for one in (b, c))
        dt = torch.nn.functional.softplus(inputs.steps[rows].float() + bias)[:, :, None, None]
        states = inputs.states[inputs.places[rows].long()].float()
        states = torch.exp(decay * dt) * states + dt * x[..., None] * b
        yield (states * c).sum(-1) + skip * x, states
