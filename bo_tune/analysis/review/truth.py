"""The true best of grids that were measured whole, by a recording or an exhaustive study."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from bo_tune.analysis.review.importance import exact_losses
from bo_tune.analysis.review.study import StudyReview
from bo_tune.core.conclusion import SHARED
from bo_tune.core.problem import Problem
from bo_tune.core.space import Config, ConfigKey, config_key
from bo_tune.core.study_name import StudyName
from bo_tune.formats.recording import Recording
from bo_tune.kernels.registry import is_known
from bo_tune.tuning.joint.choice import best_together

Place = tuple[Problem, str, str, str, str]
"""Problem, GPU, kernel source, conditions, toolchain. Times of one place may be compared."""


@dataclass(frozen=True, slots=True)
class GridCost:
    """The cost of measuring a whole grid.

    Attributes:
        configs: configs tried, including invalid ones.
        under_way: when trials of an exhaustive study on a GPU were under way; a recording does not say.
    """

    configs: int
    launches: int
    compiles: int
    compile_s: float
    under_way: Sequence[tuple[datetime, datetime]] = ()


@dataclass(frozen=True)
class Truth:
    """The times of a whole grid.

    Attributes:
        source: what measured it.
        times_us: by ``config_key``, in us, without invalid configs.
        default_us: time of the default config, which need not be on the grid.
        default: its key; None for a kernel that this program does not know.
        cost: what measuring it cost.
    """

    source: str
    times_us: Mapping[ConfigKey, float]
    default_us: float | None
    default: ConfigKey | None
    cost: "GridCost"

    @cached_property
    def best_us(self) -> float:
        """The smallest time."""
        return min(self.times_us.values())

    @cached_property
    def losses(self) -> Mapping[str, float]:
        """The cost of a wrong value of each parameter (``importance``)."""
        return exact_losses(self.times_us)

    def time_us(self, config: Config) -> float | None:
        """Return the time of a config, in us. Off the grid, only the default's is known."""
        key = config_key(config)
        return self.default_us if key == self.default and key not in self.times_us else self.times_us.get(key)


def place_of(name: StudyName) -> Place:
    """Return the place to which a study's times belong."""
    return name.problem, name.gpu, name.kernel_source, name.conditions, name.toolchain


def truths_of(
    grids: Iterable[StudyReview], recordings: Iterable[Recording], toolchains: Collection[str]
) -> dict[Place, Truth]:
    """Return the whole grids. If a grid was both recorded and searched exhaustively, the recording is used.

    Files of recordings do not distinguish unusual conditions, so a recording counts for usual conditions
    only. Since the user named it, it counts for every toolchain.

    Args:
        toolchains: of the reviewed studies.
    """
    found: dict[Place, Truth] = {}
    for study in grids:
        times = {config_key(p.config): p.time_us for p in study.trials if p.complete and p.time_us is not None}
        if study.finished and times:
            found[place_of(study.name)] = Truth(
                "exhaustive study", times, study.default_us, study.default, _cost_of_study(study)
            )
    for recording in recordings:
        times = {key: entry.time_us for key, entry in recording.entries.items() if entry.time_us is not None}
        if times:
            known = is_known(recording.problem.kernel)
            default = config_key(recording.default_config) if known else None
            truth = Truth(
                recording.path.name,
                times,
                times.get(default, recording.default_time_us) if default else recording.default_time_us,
                default,
                _cost_of_recording(recording),
            )
            place = recording.problem, recording.gpu.name, recording.kernel_source, ""
            found |= {(*place, toolchain): truth for toolchain in toolchains}
    return found


def _cost_of_study(study: StudyReview) -> GridCost:
    costs = study.costs
    under_way = () if study.replayed else study.under_way
    return GridCost(costs.configs, costs.launches, costs.compiles, costs.compile_s, under_way)


def _cost_of_recording(recording: Recording) -> GridCost:
    """Return a recorded grid's cost, with one check in addition to the recorded repetitions of each config."""
    entries = recording.entries.values()
    launched = [entry for entry in entries if entry.runtimes_us]
    compiled = [entry.compile_s for entry in entries if entry.compile_s > 0]
    launches = sum(1 + len(entry.runtimes_us) for entry in launched)
    return GridCost(len(entries), launches, len(compiled), sum(compiled))


def best_sum_us(truths: Sequence[Truth], decided: int | None = None) -> float | None:
    """Return the smallest sum of kernels' times under one value of ``SHARED``, or under the decided value."""
    timed = [[(dict(key), time) for key, time in truth.times_us.items()] for truth in truths]
    return best_together([[(c, time) for c, time in one if decided in (None, c[SHARED])] for one in timed])
