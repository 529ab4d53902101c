"""What a study is about, as its name in the database says it. Pure data."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bo_tune.core.problem import Problem, problem_from_json


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts texts with numbers in them by the numbers: m16 before m256."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


_LATER = ("toolchain", "search", "set_aside")


@dataclass(frozen=True, slots=True)
class StudyName:
    """What one study is about: its identity, which decides what of it may be used again.

    Measurements of different GPUs, kernel sources, conditions or toolchains never share a study. Searches by different
    samplers or seeds have studies of their own, so that none sees another's trials, or hands its result to one that it
    is compared with; so has an exhaustive search.

    Attributes:
        toolchain: see ``conditions.toolchain_label``; "" where it is not known, as of studies of schema 1.
        search: what is not as usual of the search: its sampler, its seed (``SessionSettings.search``).
        set_aside: when the study was set aside for one begun anew (ISO 8601, UTC); "" for one in use.
    """

    problem: Problem
    gpu: str
    kernel_source: str
    exhaustive: bool = False
    conditions: str = ""
    toolchain: str = ""
    search: str = ""
    set_aside: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "StudyName":
        """Read what ``to_json`` made of a name."""
        return cls(**{**stored, "problem": problem_from_json(stored["problem"])})

    def to_json(self) -> dict[str, Any]:
        """Return the name as plain values; without those that say nothing, which schema 1 did not have."""
        return {key: value for key, value in asdict(self).items() if key not in _LATER or value}

    @property
    def place(self) -> tuple[str, str, str]:
        """What studies have in common that were measured on the same GPU type, of the same code, under the same
        conditions. Toolchains change times much less than these: studies of all of them teach as of one place."""
        return self.gpu, self.kernel_source, self.conditions

    def __str__(self) -> str:
        parts = [self.problem.kernel, self.problem.label, self.gpu, self.kernel_source]
        aside = f"set aside {self.set_aside}" if self.set_aside else ""
        more = [self.toolchain, self.conditions, self.search, "grid" if self.exhaustive else "", aside]
        return " | ".join([*parts, *filter(None, more)])
