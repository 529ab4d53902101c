"""What a study is about, as its name in the database says it. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bo_tune.problem import AnyProblem, problem_from_json


@dataclass(frozen=True, slots=True)
class StudyName:
    """What one study is about. Measurements of different GPUs, kernel sources or conditions never share a study.

    An exhaustive search is a study of its own, so that a grid never hands its result to a search it is
    compared with.
    """

    problem: AnyProblem
    gpu: str
    kernel_source: str
    exhaustive: bool = False
    conditions: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StudyName":
        """Read what ``dataclasses.asdict`` and JSON made of a name."""
        return cls(**{**stored, "problem": problem_from_json(stored["problem"])})

    @property
    def place(self) -> tuple[str, str, str]:
        """What studies have in common that were measured on the same GPU type, of the same code, under the same
        conditions."""
        return self.gpu, self.kernel_source, self.conditions

    def __str__(self) -> str:
        parts = [self.problem.kernel, self.problem.label, self.gpu, self.kernel_source]
        more = [self.conditions, "grid" if self.exhaustive else ""]
        return " | ".join([*parts, *filter(None, more)])
