"""Choosing m on a device whose times over m are known, so that the switch from one config to another is."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, cast

import pytest
from helpers import FakeDevice
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bo_tune.core.outcome import Compilation, Invalid, InvalidReason, LaunchPurpose, Outcome, Resources
from bo_tune.core.problem import LoraProblem
from bo_tune.core.space import Config, SearchSpace
from bo_tune.display.ladder import ladder_lines, ladder_table
from bo_tune.engines.models.engine import M_LADDER, is_sampled
from bo_tune.engines.models.problems import SHRINK
from bo_tune.engines.vllm.lookup import nearest_of
from bo_tune.errors import DeviceError
from bo_tune.measure.device import Build, Compiled, Remeasured
from bo_tune.measure.devices import Job, job_of
from bo_tune.session.m_ladder import Gap, Ladder, LadderSettings, refine
from bo_tune.session.session import Tuned

SPACE = SearchSpace.of({"block_m": (16, 32, 64)})
TimeOf = Callable[[LoraProblem, Config], float]


def times_us(problem: LoraProblem, config: Config) -> float:
    """Time in us: small tiles cost by the token, large ones by the launch. 16 and 64 are equal at m = 1000."""
    return {16: 10 + problem.m / 100, 32: 100 + problem.m / 1000, 64: 19 + problem.m / 1000}[config["block_m"]]


@dataclass
class OverM(FakeDevice):
    """A device whose times depend on m."""

    times_of: TimeOf = times_us
    broken: Callable[[LoraProblem, Config], bool] = lambda problem, config: False
    probed: list[tuple[LoraProblem, int]] = field(default_factory=list)

    def compile(self, problem: LoraProblem, config: Config) -> Future[Build]:
        future: Future[Build] = Future()
        bad = self.broken(problem, config)
        future.set_result(Invalid(InvalidReason.COMPILE_ERROR) if bad else Compiled(Compilation(), Resources()))
        return future

    def measure(
        self, problem: LoraProblem, config: Config, compiled: Compiled, *, stop_above_us: float | None
    ) -> Outcome:
        self.times = lambda config: self.times_of(problem, config)
        return super().measure(problem, config, compiled, stop_above_us=stop_above_us)

    def remeasure(self, problem: LoraProblem, configs: Sequence[Config], rounds: int, *, taken: int = 0) -> Remeasured:
        self.probed.append((problem, problem.m))
        times = [(self.times_of(problem, config),) * rounds for config in configs]
        return Remeasured(times, Counter({LaunchPurpose.FINALISTS: rounds * len(configs)}))


def device(**more: Any) -> OverM:
    return OverM(times=lambda config: 1.0, space=SPACE, **more)


def tuner(rounds: list[list[LoraProblem]]) -> Callable[[Sequence[Job]], list[Tuned]]:
    """Return what stands for ``Session.run``: the best config at each m."""

    def tune(jobs: Sequence[Job]) -> list[Tuned]:
        rounds.append([job.problem for job in jobs])
        return [cast(Tuned, Study(job)) for job in jobs]

    return tune


@dataclass
class Result:
    config: Config


class Study:
    def __init__(self, job: Job) -> None:
        self.job = job
        on = cast(OverM, job.device)
        self.result = Result(min(on.space, key=lambda config: on.times_of(job.problem, config)))


def problem(m: int, **more: Any) -> LoraProblem:
    return LoraProblem(**{"kernel": SHRINK, "max_loras": 4, "num_slices": 1, "k": 4096, "n": 16, "m": m, **more})


def refined(*problems: LoraProblem, on: OverM | None = None, **more: Any) -> tuple[Ladder, list[list[LoraProblem]]]:
    rounds: list[list[LoraProblem]] = []
    jobs = [job_of(p, on or device()) for p in problems]
    ladder = refine(tuner(rounds), jobs, LadderSettings(**{"most_added": 8, **more}))
    return ladder, rounds


def worst(gaps: Sequence[Gap]) -> float:
    return max(gap.badness for gap in gaps)


def test_keys_are_added_where_the_best_config_changes() -> None:
    ladder, rounds = refined(problem(512), problem(4096))
    added = [p.m for round_ in rounds[1:] for p in round_]
    # At 2304, where the lookup changes over, the lower key's config takes 33.04 us and the upper one's 21.304.
    assert ladder.coarse == [Gap(problem(512), "NVIDIA H100 80GB HBM3", 4096, 2304, pytest.approx(33.04 / 21.304 - 1))]
    assert added[0] == 2304
    assert ladder.added == [(problem(1), m) for m in added]
    assert 1 <= len(added) <= 4
    assert worst(ladder.gaps) <= 0.02
    assert len(ladder.tuned) == 2 + len(added)


def test_what_the_lookup_gives_is_as_good_as_is_said() -> None:
    ladder, _ = refined(*(problem(m) for m in (16, 512, 4096)))
    configs = {study.job.problem.m: cast(Any, study.result).config for study in ladder.tuned}
    keys = sorted(configs)
    for m in filter(is_sampled, range(16, 4096)):
        given_us = times_us(problem(m), configs[nearest_of(keys, m)])
        best_us = min(times_us(problem(m), config) for config in SPACE)
        assert given_us / best_us - 1 <= 0.03


def test_no_key_is_added_where_nothing_changes() -> None:
    ladder, rounds = refined(*(problem(m) for m in (1, 64, 512)))
    assert len(rounds) == 1
    assert ladder.launches == 0
    assert [gap.loss for gap in ladder.gaps] == [0.0, 0.0]


def test_only_m_that_a_step_may_have_are_probed() -> None:
    on = device()
    ladder, _ = refined(*(problem(m) for m in (1, 2, 4, 8, 512, 8192)), on=on)
    assert all(is_sampled(m) for _, m in on.probed)
    assert [(gap.problem.m, gap.upper) for gap in ladder.coarse] == [(8, 512), (512, 8192)]
    assert {is_sampled(m) for m in (1, 2, 4, 8, 24, 256, 272, 512, 528, 4096)} == {True}
    assert {is_sampled(m) for m in (3, 12, 264, 513, 4097)} == {False}


def test_the_budget_caps_what_is_added() -> None:
    assert len(refined(problem(512), problem(4096), most_added=1)[0].added) == 1
    assert refined(problem(512), problem(4096), most_added=0)[0].added == []
    by_share, rounds = refined(*(problem(m) for m in M_LADDER), most_added=None)
    assert 0 < len(by_share.added) <= len(M_LADDER) // 4
    assert sum(map(len, rounds[1:])) == len(by_share.added)


def test_a_new_key_is_tuned_for_every_problem_beside_it() -> None:
    """Or else the other problems at that m would take this one's config: n and k are looked up below m."""
    flat = problem(512, k=11008), problem(4096, k=11008)
    other_slices = problem(512, num_slices=2), problem(4096, num_slices=2)
    short = problem(16, k=128), problem(1024, k=128)

    def times(p: LoraProblem, config: Config) -> float:
        return times_us(p, config) if p.k == 4096 and p.num_slices == 1 else 10.0 + config["block_m"]

    ladder, _ = refined(problem(512), problem(4096), *flat, *other_slices, *short, on=device(times_of=times))
    assert ladder.added
    assert {line.num_slices for line, _ in ladder.added} == {1}
    by_m: dict[int, set[int]] = {}
    for line, m in ladder.added:
        by_m.setdefault(m, set()).add(line.k)
    assert all({4096, 11008} <= ks for ks in by_m.values())
    assert all((128 in ks) == (m < 1024) for m, ks in by_m.items())


def test_a_config_that_cannot_run_between_keys_gets_a_key() -> None:
    on = device(broken=lambda p, config: config["block_m"] == 16 and p.m == 2304)
    ladder, rounds = refined(problem(512), problem(4096), on=on, most_added=1)
    assert ladder.coarse[0].loss is None
    assert rounds[1][0].m == 2304
    assert "cannot run" in rendered(ladder)


def test_what_cannot_be_measured_is_counted() -> None:
    class Small(OverM):
        def remeasure(
            self, problem: LoraProblem, configs: Sequence[Config], rounds: int, *, taken: int = 0
        ) -> Remeasured:
            raise DeviceError("out of memory")

    ladder, _ = refined(problem(512), problem(4096), on=Small(times=lambda config: 1.0, space=SPACE))
    assert (ladder.gaps, ladder.unmeasured) == ([], 1)
    assert "1 gaps could not be measured" in ladder_lines(ladder)[0]


def test_a_study_without_a_result_leaves_its_gap() -> None:
    rounds: list[list[LoraProblem]] = []
    tune = tuner(rounds)

    def failing(jobs: Sequence[Job]) -> list[Tuned]:
        studies = tune(jobs)
        for study in studies:
            if study.job.problem.m == 2304:
                cast(Any, study).result = None
        return studies

    ladder = refine(failing, [job_of(p, device()) for p in (problem(512), problem(4096))], LadderSettings(most_added=9))
    assert len(rounds) == 2
    assert ladder.gaps == ladder.coarse


@given(st.integers(1, 8192), st.sets(st.sampled_from(M_LADDER), min_size=2))
def test_with_budget_enough_little_is_lost_wherever_the_switch_is(switch: int, ms: set[int]) -> None:
    def times(p: LoraProblem, config: Config) -> float:
        return {16: 1 + p.m / switch, 32: 50.0 * (1 + p.m), 64: 2.0 + p.m / switch / 100}[config["block_m"]]

    on = device(times_of=times)
    ladder, _ = refined(*(problem(m) for m in sorted(ms)), on=on, most_added=1000)
    assert all(gap.badness <= 0.02 for gap in ladder.gaps)
    keys = [study.job.problem.m for study in ladder.tuned]
    assert len(set(keys)) == len(keys)
    assert len(ladder.added) <= 14


def rendered(ladder: Ladder) -> str:
    text = StringIO()
    Console(file=text, width=160).print(ladder_table(ladder, {problem(512): ("o_proj",)}))
    return text.getvalue()


def test_the_loss_is_shown() -> None:
    ladder, _ = refined(problem(512), problem(4096))
    text = rendered(ladder)
    assert "o_proj" in text
    assert "55.09 %" in text
    assert "2304" in text
    assert f"added {len(ladder.added)} problems; 0 of {len(ladder.gaps)} gaps" in ladder_lines(ladder)[0]
