"""The subject of a study, as in its name in the database. Pure data."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bo_tune.core.problem import Problem, problem_from_json


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts texts by the numbers in them: m16 before m256."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", text)]


_LATER = ("toolchain", "search", "set_aside")


@dataclass(frozen=True, slots=True)
class StudyName:
    """The subject of one study. It is the study's identity, and decides what of it may be used again.

    Measurements of different GPUs, kernel sources, conditions or toolchains never share a study. Searches with
    different samplers or seeds have separate studies. So none sees another's trials, or passes its result to a search
    that it is compared with. The same holds for exhaustive searches.

    Attributes:
        toolchain: see ``conditions.toolchain_label``; "" if unknown, as in studies of schema 1.
        search: the search's differences from the defaults: its sampler, its seed (``SessionSettings.search``).
        set_aside: time at which the study was set aside for a new one (ISO 8601, UTC); "" for a study in use.
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
        """Read the result of ``to_json``."""
        return cls(**{**stored, "problem": problem_from_json(stored["problem"])})

    def to_json(self) -> dict[str, Any]:
        """Return the name as plain values, without empty ones that schema 1 did not have."""
        return {key: value for key, value in asdict(self).items() if key not in _LATER or value}

    @property
    def place(self) -> tuple[str, str, str]:
        """The place of a study: the type of GPU, the kernel source and the conditions.

        Toolchains change times much less than these do. So studies with different toolchains teach each other as if
        from one place.
        """
        return self.gpu, self.kernel_source, self.conditions

    def __str__(self) -> str:
        parts = [self.problem.kernel, self.problem.label, self.gpu, self.kernel_source]
        aside = f"set aside {self.set_aside}" if self.set_aside else ""
        more = [self.toolchain, self.conditions, self.search, "grid" if self.exhaustive else "", aside]
        return " | ".join([*parts, *filter(None, more)])
