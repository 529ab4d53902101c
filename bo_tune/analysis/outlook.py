"""Estimates the cost of tuning before a GPU is seen.

The figures come from sessions measured on an H100 and an H200 with 16 cores and an empty cache
(``benchmarks/results``). Llama-3.1-8B's 84 studies compiled 807 binaries in 517 s of one core and took 61 s. The 36
studies of Qwen3-30B-A3B's experts compiled 497 and took 47 s. The estimates here come within a tenth of both.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bo_tune.core.problem import LoraProblem, Problem
from bo_tune.kernels.experts.step import KERNEL as EXPERTS
from bo_tune.kernels.experts.step import ExpertsStep
from bo_tune.kernels.mamba.step import KERNEL as MAMBA
from bo_tune.kernels.mamba.step import MambaStep
from bo_tune.kernels.registry import DECIDING
from bo_tune.measure.devices import deciding_problems

FIRST, FURTHER = 24, 8
"""Binaries that the first study of a shape compiles, and those of each further one, which shares most of them."""

COMPILE_S = 0.64
"""Seconds of one core for a binary."""

GPU_S = 0.2
"""Seconds of the GPU for a study."""

COMPILERS = 15
"""Compile processes of those sessions."""

WAITING = 1.26
"""A session's seconds over the larger of its compiling and measuring times."""

START_S = 18.0
"""Seconds for importing torch and starting CUDA."""

MOST_ONE_LAUNCH = 128
"""Largest rank at which engines run the shrink and expand of experts in one launch."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """An estimate of what a session will do.

    Attributes:
        studies: of the problems, and of the kernels that decide for some of them.
        binaries: roughly how many to compile; None unless all kernels are adapters', since only their sessions were
            measured.
        minutes: rough time from start to JSON with one GPU; None as above.
    """

    studies: int
    binaries: int | None = None
    minutes: float | None = None

    @property
    def basis(self) -> str:
        """The basis of the estimate, in one sentence."""
        return (
            f"as measured on an H100 and an H200 with 16 cores and an empty cache: {FIRST} binaries for the first "
            f"study of a shape, {FURTHER} for each further m, {COMPILE_S} s of one core per binary; fewer cores "
            "take proportionally longer"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        minutes = None if self.minutes is None else round(self.minutes, 2)
        return {"studies": self.studies, "binaries": self.binaries, "minutes": minutes, "basis": self.basis}


def outlook(problems: Sequence[Problem], budget: int) -> Outlook:
    """Estimate the cost of tuning some problems.

    Args:
        budget: configs that each study launches at most.
    """
    asked = [*problems, *deciding_problems(problems, _decided_by)]
    if not all(isinstance(problem, LoraProblem) for problem in asked):
        return Outlook(len(asked))
    shapes = Counter(same_binaries(problem) for problem in asked)
    each = [min(FIRST, budget) + (count - 1) * min(FURTHER, budget) for count in shapes.values()]
    binaries = sum(each)
    at_work_s = max(binaries * COMPILE_S / COMPILERS, len(asked) * GPU_S)
    return Outlook(len(asked), binaries, (START_S + WAITING * at_work_s) / 60.0)


def same_binaries(problem: Problem) -> Problem:
    """Equal for problems whose configs share most of their binaries: those that differ only in m."""
    if problem.kernel == EXPERTS:
        return replace(ExpertsStep.of(problem), m=1).problem
    if problem.kernel == MAMBA:
        return replace(MambaStep.of(problem), sequences=1).problem
    return replace(problem, m=1) if isinstance(problem, LoraProblem) else problem


def _decided_by(problem: LoraProblem) -> Collection[str]:
    """Name the kernels that an engine launches in place of the experts' four, as far as sizes tell."""
    shared = problem.experts is not None and problem.experts.shards > 1
    return () if shared or problem.k > MOST_ONE_LAUNCH else list(DECIDING)
