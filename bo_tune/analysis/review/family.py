"""Cases that belong in one picture: those of one kernel on one GPU, by layer shape and number of tokens."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from bo_tune.analysis.review.case import Case
from bo_tune.analysis.review.study import StudyReview
from bo_tune.core.problem import LoraProblem
from bo_tune.core.study_name import natural
from bo_tune.core.surroundings import MOE
from bo_tune.kernels.registry import IN_ORDER

WORDS = {"L": "max_loras", "s": "slices", "top": "top_k", "e": "experts"}
"""Meaning of the letters before numbers in labels of problems, unless they are names themselves."""

_PART = re.compile(r"([A-Za-z]+)(\d[\d-]*)")


@dataclass(frozen=True, slots=True)
class Family:
    """Cases of one kernel, or of kernels that agreed, with the same GPU, kernel source and conditions.

    Attributes:
        kernels: one, or those that agreed.
        common: what all shapes of the family have in common, in words; empty for a single shape.
    """

    kernels: Sequence[str]
    gpu: str
    kernel_source: str
    conditions: str
    cases: Sequence[Case]
    common: str

    @property
    def name(self) -> str:
        """The family's name."""
        if len(self.kernels) == 1:
            return self.kernels[0]
        return f"{MOE}: {' + '.join(kernel.removeprefix(f'{MOE}_') for kernel in self.kernels)}"

    @property
    def decided(self) -> bool:
        """Whether an engine launches other kernels in place of these, which decided on block_m."""
        return any(case.decided is not None for case in self.cases)

    @property
    def joint(self) -> bool:
        """Whether its kernels had to agree."""
        return len(self.kernels) > 1

    @property
    def speed_up(self) -> float | None:
        """Geometric mean over the cases that count; None if there are none."""
        gains = [case.speed_up for case in self.cases if case.counts and case.speed_up]
        return geometric_mean(gains) if gains else None

    @property
    def ms(self) -> list[int]:
        """The numbers of tokens, ascending; empty if problems have none."""
        return sorted({m for case in self.cases if (m := tokens_of(case.first)) is not None})

    @property
    def shapes(self) -> list[str]:
        """The layer shapes in words, in the order of their numbers."""
        return sorted({self.shape_of(case.first) for case in self.cases}, key=natural)

    def shape_of(self, study: StudyReview) -> str:
        """Return the shape of a problem in words, without m and without what all shapes have in common."""
        common = set(self.common.split(", "))
        words = [word for word in _words(study, joint=self.joint) if word not in common]
        return ", ".join(words)


def families_of(cases: Iterable[Case]) -> list[Family]:
    """Sort cases into families, in the order in which a layer runs their kernels."""
    found: dict[tuple[tuple[str, ...], str, str, str], list[Case]] = {}
    for case in cases:
        kernels = tuple(study.name.problem.kernel for study in case.studies)
        _, gpu, source, conditions = case.first.family
        found.setdefault((kernels, gpu, source, conditions), []).append(case)
    families = []
    for (kernels, gpu, source, conditions), members in found.items():
        words = [_words(case.first, joint=case.joint) for case in members]
        several = any(other != words[0] for other in words)
        common = [word for word in words[0] if several and all(word in other for other in words)]
        ordered = sorted(members, key=lambda case: natural(case.first.name.problem.label))
        families.append(Family(kernels, gpu, source, conditions, ordered, ", ".join(common)))
    return sorted(families, key=_place)


def _place(family: Family) -> tuple[int, str]:
    """Return a sort key: kernels in the order in which a layer runs them, then a user's kernels."""
    order = list(IN_ORDER)
    kernel = family.kernels[0]
    return order.index(kernel) if kernel in order else len(order), kernel


def tokens_of(study: StudyReview) -> int | None:
    """Return the tokens of a step, or None for a kernel without tokens."""
    problem = study.name.problem
    return problem.m if isinstance(problem, LoraProblem) else None


def _words(study: StudyReview, *, joint: bool) -> list[str]:
    """Return a problem's label in words, without its m. If kernels agree, leave out slices, which differ."""
    problem = study.name.problem
    parts = problem.label.split(".")
    if isinstance(problem, LoraProblem):
        parts = [part for part in parts if part != f"m{problem.m}" and not (joint and part == f"s{problem.num_slices}")]
        return [_word(part) for part in parts]
    return parts


def _word(part: str) -> str:
    matched = _PART.fullmatch(part)
    if matched is None or matched[1] in ("bfloat", "float"):
        return part
    letters, number = matched.groups()
    if letters == "s":
        return f"{number} slice{'s' * (number != '1')}"
    return f"{WORDS.get(letters, letters)} {number.replace('-', '/') if letters == 'w' else number}".replace(
        "w ", "widths "
    )
