"""Choosing m: which numbers of tokens get their own keys, and what it costs to have no more.

vLLM looks every m up under the nearest key, and under the lower one of two that are equally near. So between two keys,
the config changes in the middle, whether or not the best config changes there. ``refine`` tunes a coarse ladder of keys
and measures the neighbours' configs on both sides of each such switch. If the looked-up config loses more than a
tolerance there, it adds a key at that m. A new key m is a new level of the file for *every* problem looked up with the
same max_loras and num_slices, so all of them are tuned at it. Otherwise a missing one would get another layer's config.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from bo_tune.core.outcome import Measurement, estimate_us
from bo_tune.core.problem import LoraProblem, lora
from bo_tune.core.space import Config, config_key
from bo_tune.core.surroundings import Layer
from bo_tune.engines.models.engine import is_sampled
from bo_tune.errors import DeviceError
from bo_tune.kernels.spec import AnySpec
from bo_tune.measure.device import Compiled, Device
from bo_tune.measure.devices import Job
from bo_tune.session.session import Tuned

NEIGHBOURS = 2
"""Keys on each side of a gap whose configs are measured in it."""

ADDED_SHARE = 0.25
"""Problems that may be added, as a share of those of the coarse ladder."""

Tune = Callable[[Sequence[Job]], Sequence[Tuned]]
"""Tunes problems: ``Session.run``."""


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """Settings for adding keys.

    Attributes:
        tolerance: loss between keys that is not worth a key, as a share.
        most_added: problems to tune beyond the coarse ladder; None for ``ADDED_SHARE`` of it.
        rounds: repetitions of each config at a probed m.
    """

    tolerance: float = 0.02
    most_added: int | None = None
    rounds: int = 20


@dataclass(frozen=True, slots=True)
class Gap:
    """Two neighbouring keys of a problem, and the greatest loss between them.

    Attributes:
        problem: at the lower key.
        gpu: name of the GPU.
        upper: the upper key.
        m: the probed m with the greatest loss.
        loss: time of the looked-up config over that of the best one known at m, minus one; None if it cannot run there.
    """

    problem: LoraProblem
    gpu: str
    upper: int
    m: int
    loss: float | None

    @property
    def badness(self) -> float:
        """The measure by which gaps are compared: the loss, or infinity if the config cannot run."""
        return float("inf") if self.loss is None else self.loss


@dataclass(frozen=True, slots=True)
class Ladder:
    """The result of choosing m.

    Attributes:
        tuned: the studies of all keys, those of the coarse ladder first.
        coarse: the gaps of the coarse ladder.
        gaps: the gaps that are left.
        added: what was tuned beyond the coarse ladder: problems with an m of 1, and their m.
        tolerance: loss that was not worth a key, as a share.
        unmeasured: number of gaps that could not be measured.
        launches: kernel launches that the probes took.
    """

    tuned: list[Tuned]
    coarse: list[Gap]
    gaps: list[Gap]
    added: list[tuple[LoraProblem, int]]
    tolerance: float
    unmeasured: int
    launches: int


@dataclass
class Line:
    """One problem over all m.

    Attributes:
        problem: with an m of 1.
        configs: the chosen configs by key m.
        tried: the m that were tuned, with or without a result.
    """

    problem: LoraProblem
    spec: AnySpec
    device: Device
    layer: Layer | None = None
    configs: dict[int, Config] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)

    @property
    def keys(self) -> list[int]:
        """The keys, ascending."""
        return sorted(self.configs)

    @property
    def file_level(self) -> tuple[object, ...]:
        """Equal for lines whose keys m stand in the same level of a file."""
        problem = self.problem
        together = self.spec.joint_group(problem)
        if together is not None:  # kernels that agree at every key have the same keys
            return self.device.gpu.name, together[0], problem.max_loras
        return self.device.gpu.name, problem.kernel, problem.add_inputs, problem.max_loras, problem.num_slices

    def at(self, m: int) -> LoraProblem:
        """Return the problem at an m."""
        return replace(self.problem, m=m)

    def spans(self, m: int) -> bool:
        """Say whether m lies between two of its keys."""
        return bool(self.configs) and min(self.configs) < m < max(self.configs)


def refine(
    tune: Tune,
    jobs: Sequence[Job],
    settings: LadderSettings | None = None,
    *,
    sampled: Callable[[int], bool] = is_sampled,
) -> Ladder:
    """Tune problems, and further ones at those m where too much is lost between keys.

    Args:
        tune: tunes problems. Called for the jobs, then for each round of added ones.
        sampled: says whether an m may be probed, and become a key.

    Raises:
        InterruptedSearch: raised by ``tune``.
    """
    return _Refinement(tune, settings or LadderSettings(), sampled).run(jobs)


class _Refinement:
    """The state of one call of ``refine``."""

    def __init__(self, tune: Tune, settings: LadderSettings, sampled: Callable[[int], bool]) -> None:
        self._tune, self._settings, self._sampled = tune, settings, sampled
        self._lines: dict[tuple[LoraProblem, str], Line] = {}
        self._gaps: dict[tuple[LoraProblem, str, int], Gap | None] = {}
        self._tuned: list[Tuned] = []
        self._launches = 0

    def run(self, jobs: Sequence[Job]) -> Ladder:
        most = self._settings.most_added
        left = int(ADDED_SHARE * len(jobs)) if most is None else most
        self._add(jobs)
        coarse = self._measure_gaps()
        gaps = coarse
        added: list[tuple[LoraProblem, int]] = []
        while more := self._additions(gaps, left - len(added)):
            added += [(replace(lora(job.problem), m=1), lora(job.problem).m) for job in more]
            self._add(more)
            gaps = self._measure_gaps()
        first, measured = ([gap for gap in found if gap is not None] for found in (coarse, gaps))
        unmeasured = len(gaps) - len(measured)
        return Ladder(self._tuned, first, measured, added, self._settings.tolerance, unmeasured, self._launches)

    def _add(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            asked = lora(job.problem)
            problem = replace(asked, m=1)
            line = self._lines.setdefault(
                (problem, job.device.gpu.name), Line(problem, job.spec, job.device, job.layer)
            )
            line.tried.add(asked.m)
        for study in self._tune(jobs):
            self._tuned.append(study)
            if study.result is not None:
                asked = lora(study.job.problem)
                key = replace(asked, m=1), study.job.device.gpu.name
                self._lines[key].configs[asked.m] = study.result.config

    def _measure_gaps(self) -> list[Gap | None]:
        """Return the gaps between neighbouring keys with a sampled m between them. Each is measured once."""
        found = []
        for line in self._lines.values():
            keys = line.keys
            for lower, upper in pairwise(keys):
                sides = self._sides(lower, upper)
                if not sides:
                    continue
                name = line.at(lower), line.device.gpu.name, upper
                if name not in self._gaps:
                    self._gaps[name] = self._measure(line, lower, upper, sides)
                found.append(self._gaps[name])
        return found

    def _sides(self, lower: int, upper: int) -> list[tuple[int, int]]:
        """Return the m next to the switch that may be probed, each with the key under which it is looked up."""
        middle = (lower + upper) // 2
        below = next((m for m in range(middle, lower, -1) if self._sampled(m)), None)
        above = next((m for m in range(middle + 1, upper) if self._sampled(m)), None)
        return [(m, key) for m, key in ((below, lower), (above, upper)) if m is not None]

    def _measure(self, line: Line, lower: int, upper: int, sides: Sequence[tuple[int, int]]) -> Gap | None:
        """Return the gap with the worse of its sides, or None if nothing could be measured."""
        worst: Gap | None = None
        for m, key in sides:
            try:
                loss = self._loss(line, m, key, _near(line, lower, upper))
            except DeviceError:  # for example because its inputs do not fit; the next problem's may
                continue
            gap = Gap(line.at(lower), line.device.gpu.name, upper, m, loss)
            if worst is None or gap.badness > worst.badness:
                worst = gap
        return worst

    def _loss(self, line: Line, m: int, key: int, configs: Sequence[Config]) -> float | None:
        used = config_key(line.configs[key])
        if all(config_key(config) == used for config in configs):
            return 0.0
        times_us = {config_key(config): time_us for config, time_us in self._times_us(line, m, configs)}
        return times_us[used] / min(times_us.values()) - 1 if used in times_us else None

    def _times_us(self, line: Line, m: int, configs: Sequence[Config]) -> Iterator[tuple[Config, float]]:
        """Time configs in turn at an m, after each has passed its check there."""
        problem, device, rounds = line.at(m), line.device, self._settings.rounds
        sound = []
        for config, build in [(config, device.compile(problem, config)) for config in configs]:
            compiled = build.result()
            if isinstance(compiled, Compiled):
                outcome = device.measure(problem, config, compiled, stop_above_us=None)
                self._launches += outcome.launches.total()
                if isinstance(outcome, Measurement):
                    sound.append(config)
        if not sound:
            return
        timed = device.remeasure(problem, sound, rounds)
        self._launches += timed.launches.total()
        for config, runtimes_us in zip(sound, timed.runtimes_us, strict=True):
            if runtimes_us:
                yield config, estimate_us(runtimes_us)

    def _additions(self, gaps: Sequence[Gap | None], left: int) -> list[Job]:
        """Return the problems to add, greatest losses first. A pair of keys of a file's level gets one m."""
        jobs: list[Job] = []
        split: set[tuple[object, ...]] = set()
        over = [gap for gap in gaps if gap is not None and gap.badness > self._settings.tolerance]
        for gap in sorted(over, key=lambda gap: gap.badness, reverse=True):
            level = self._lines[replace(gap.problem, m=1), gap.gpu].file_level
            beside = [line for line in self._lines.values() if line.file_level == level]
            new = [line for line in beside if line.spans(gap.m) and gap.m not in line.tried]
            pair = level, gap.problem.m, gap.upper
            if pair not in split and new and len(jobs) + len(new) <= left:
                split.add(pair)
                jobs += [Job(line.at(gap.m), line.spec, line.device, layer=line.layer) for line in new]
        return jobs


def _near(line: Line, lower: int, upper: int) -> list[Config]:
    """Return the configs of the keys around a gap, each once."""
    keys = line.keys
    start, end = keys.index(lower) - NEIGHBOURS + 1, keys.index(upper) + NEIGHBOURS
    configs = [line.configs[key] for key in keys[max(0, start) : end]]
    return list({config_key(config): config for config in configs}.values())
