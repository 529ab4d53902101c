"""Settings for searching a session's studies, and the part that is stored with each study for other workers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError

from bo_tune.core.choices import GRID, GRID_GP, SAMPLERS
from bo_tune.core.conclusion import SHARED, Decision, StopRule
from bo_tune.core.problem import Problem
from bo_tune.core.study_name import StudyName
from bo_tune.core.surroundings import Layer, asked_of
from bo_tune.measure.devices import Job, together
from bo_tune.store.fields import Count, Experts, Flag, Line, LinearLayer, Parameter, Setting, Share, first_error
from bo_tune.tuning.settings import Finalists, TunerSettings

STUDIES_PER_COMPILER = 1
"""Studies in flight for each compile process. The fewer there are, the more of a session's studies learn from
others."""

EXHAUSTIVE_LOOKAHEAD = 64
"""An exhaustive search compiles this many configs ahead, since it knows them all beforehand."""

CONFIGS_PER_COMPILER = 3
"""Configs under way in all studies for each compile process: some are being proposed, some wait for the GPU. On the
bundled recordings, a search that has three configs under way leaves no more regret than one that waits for each."""

MOST_LOOKAHEAD = 8
"""A search that learns proposes at most this many configs at once, however many compilers idle."""

EXHAUSTIVE_FINALISTS = Finalists(count=48, rounds=60)
"""The best of thousands is partly the luckiest, so more of them are re-measured, and for longer."""


MOST_ACTIVE = 64
"""Numbers of adapters in a mix."""


def _known(sampler: str) -> str:
    if sampler not in SAMPLERS:
        raise PydanticCustomError("sampler", "expected one of {known}", {"known": ", ".join(SAMPLERS)})
    return sampler


class _Finalists(BaseModel):
    count: Setting
    rounds: Setting
    most_rounds: Setting
    confidence: Share
    equal_within: Share
    active: Annotated[list[Setting], Field(max_length=MOST_ACTIVE)] = []


class _StopRule(BaseModel):
    tolerance: Share
    risk: Share
    least: Count
    most: Count | None
    most_taught: Count | None


class _Job(BaseModel):
    """Types and bounds of what another process says about a search."""

    sampler: Annotated[Line, AfterValidator(_known)]
    budget: Setting | None
    seed: Count
    finalists: _Finalists
    stop_rule: _StopRule | None
    bundled: Flag = True
    together: list[Line] | None = None
    in_place: LinearLayer | Experts | None = None
    space: Mapping[Parameter, Annotated[list[Setting], Field(min_length=1, max_length=10_000)]]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Settings for searching the studies of a session.

    Attributes:
        sampler: name of a sampler; ``grid`` searches exhaustively.
        budget: configs to launch in each study; None for every candidate.
        budgets: other budgets for some studies, by problem.
        seed: of samplers; with the study's content it determines every proposal.
        in_flight: studies worked on at once.
        compilers: compile processes that the studies share; 0 if nothing is compiled.
        searchers: processes that compute proposals; 0 to compute them in the studies' own threads.
        stop_rule: when a study may end before its budget; None for never.
        bundled: whether the grids that come with the package teach the studies too.
        spaces: ranges that replace the kernels' own, by kernel.
    """

    sampler: str = GRID_GP
    budget: int | None = 40
    seed: int = 0
    finalists: Finalists = Finalists()
    in_flight: int = 1
    compilers: int = 0
    searchers: int = 0
    stop_rule: StopRule | None = None
    bundled: bool = True
    spaces: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    budgets: Mapping[Problem, int] = field(default_factory=dict)

    @property
    def exhaustive(self) -> bool:
        """Whether every candidate is tried."""
        return self.sampler == GRID

    @property
    def search(self) -> str:
        """Words for an unusual sampler, seed or history. A search with such words has studies of its own.

        It is "" if everything is as usual, and for an exhaustive search, which proposes nothing.
        """
        if self.exhaustive:
            return ""
        usual = SessionSettings()
        unusual = {
            self.sampler: self.sampler != usual.sampler,
            f"seed {self.seed}": self.seed != usual.seed,
            "not bundled": self.sampler == GRID_GP and not self.bundled,
        }
        return ", ".join(word for word, is_unusual in unusual.items() if is_unusual)

    def name_of(self, job: Job) -> StudyName:
        """Return the name of the study in which a problem is searched."""
        problem, device = job.problem, job.device
        return StudyName(
            problem,
            device.gpu.name,
            device.kernel_source(problem.kernel),
            self.exhaustive,
            device.conditions.label,
            device.toolchain,
            self.search,
        )

    def on(self, compilers: int, studies: int, devices: int = 1) -> "SessionSettings":
        """Return the settings adapted to what a host can do at once."""
        in_flight = max(1, min(studies, max(devices, STUDIES_PER_COMPILER * compilers)))
        return replace(self, in_flight=in_flight, compilers=compilers)

    def lookahead(self, studies: int) -> int:
        """Return how many configs a study may have under way if so many studies share the compilers."""
        if self.exhaustive:
            return EXHAUSTIVE_LOOKAHEAD
        return max(1, min(MOST_LOOKAHEAD, CONFIGS_PER_COMPILER * self.compilers // max(1, studies)))

    def of_group(self, jobs: Sequence[Job]) -> "SessionSettings":
        """Return the settings with one budget for studies that are searched together: the largest of theirs."""
        own = [self.budgets[job.problem] for job in jobs if job.problem in self.budgets]
        return replace(self, budget=max(own), budgets={}) if own else self

    def of_study(self, job: Job, decision: Decision | None) -> "SessionSettings":
        """Return how a problem's study is searched, which depends on whether kernels decide for others.

        A study of a kernel that decides is searched exhaustively, since there are few values. A study of a kernel that
        is decided for is searched under the decided value, unless the session is exhaustive and wants every config. A
        study of a kernel with few configs goes on as long as its budget allows, which takes no longer than being sure.
        """
        kernel = job.problem.kernel
        if job.problem in self.budgets:
            return self.of_group([job]).of_study(job, decision)
        if job.spec.decides:
            wanted = [set(ranges[SHARED]) for ranges in self.spaces.values() if SHARED in ranges]
            known = job.spec.search_space.ranges[SHARED]
            values = tuple(value for value in known if all(value in one for one in wanted))
            spaces = {kernel: {SHARED: values}} if values else {}
            return replace(self, sampler=GRID, budget=None, stop_rule=None, spaces=spaces)
        if job.spec.measured_whole:
            return replace(self, stop_rule=None)
        if decision is None or self.exhaustive:
            return self
        return replace(self, spaces={**self.spaces, kernel: {**self.spaces.get(kernel, {}), SHARED: (decision.value,)}})

    def tuner(self) -> TunerSettings:
        """Return the settings of each study's tuner."""
        if self.exhaustive:
            return TunerSettings(self.budget, EXHAUSTIVE_FINALISTS, stop_slow=False)
        return TunerSettings(self.budget, self.finalists, stop_rule=self.stop_rule)

    def asked(self, kernel: str) -> dict[str, Any]:
        """Return, as JSON, what is asked of the search of a kernel's study. A result belongs to one such search."""
        job = {
            "sampler": self.sampler,
            "budget": self.budget,
            "seed": self.seed,
            "finalists": self.finalists.to_json(),
            "stop_rule": asdict(self.stop_rule) if self.stop_rule else None,
            "bundled": self.bundled,
            "space": self.spaces.get(kernel, {}),
        }
        normal: dict[str, Any] = json.loads(json.dumps(job))
        return normal

    def job(self, kernel: str, together: Sequence[str] = (), layer: Layer | None = None) -> dict[str, Any]:
        """Return, as JSON, what another worker must know to search a kernel's study as this session would.

        Args:
            together: the kernels whose studies are searched together with it.
            layer: the layer in which its finalists race.
        """
        return {**self.asked(kernel), "together": list(together) if len(together) > 1 else None, **asked_of(layer)}

    def wanted(self, jobs: Sequence[Job]) -> dict[StudyName, dict[str, Any]]:
        """Return how the studies of jobs are to be searched, as JSON (``job``)."""
        found = {}
        for group in together(jobs):
            kernels, settings = [job.problem.kernel for job in group], self.of_group(group)
            for job in group:
                kernel = job.problem.kernel
                found[self.name_of(job)] = settings.job(kernel, together=kernels, layer=job.layer)
        return found

    @classmethod
    def of_job(cls, kernel: str, job: Mapping[str, Any]) -> "SessionSettings":
        """Read the settings of a study from what ``job`` or ``asked`` returned.

        Raises:
            ValueError: they are not valid. One line that names the place.
        """
        try:
            _Job.model_validate(job)
        except ValidationError as error:
            raise ValueError(first_error(error)) from None
        space = {name: tuple(values) for name, values in job["space"].items()}
        return cls(
            sampler=job["sampler"],
            budget=job["budget"],
            seed=job["seed"],
            finalists=Finalists.from_json(job["finalists"]),
            stop_rule=StopRule(**job["stop_rule"]) if job["stop_rule"] else None,
            bundled=job.get("bundled", True),
            spaces={kernel: space} if space else {},
        )
