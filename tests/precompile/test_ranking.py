"""Which binaries are compiled first."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import BUNDLED, H100, SHRINK, SMALL_RANGES, bundled, sliced

from bo_tune.core.problem import GpuInfo, LoraProblem
from bo_tune.core.space import Config, config_key
from bo_tune.formats.recording import read_recordings
from bo_tune.kernels.registry import kernel_spec
from bo_tune.kernels.spec import AnySpec
from bo_tune.precompile.experience import Experience, recorded_history
from bo_tune.precompile.ranking import Likely

pytestmark = pytest.mark.slow

PROBLEM = LoraProblem("lora_shrink", 4, 1, 64, 4096, 16)


@dataclass
class FakeTarget:
    """A target whose binaries do not depend on m."""

    gpu: GpuInfo = H100

    def effective_configs(self, problem: LoraProblem, configs: Sequence[Config]) -> list[Config]:
        return [dict(config) for config in configs]

    def kernel_source(self, kernel: str) -> str:
        return "some code"

    def default_config(self, spec: AnySpec, problem: LoraProblem) -> dict[str, int]:
        return spec.default_config(problem)

    def key(self, problem: LoraProblem, config: Config) -> Hashable:
        return problem.kernel, problem.k, config_key(config)


def likely(experience: Experience, *problems: LoraProblem, exhaustive: bool = False) -> Likely:
    made = Likely(FakeTarget(), experience.of, spaces=SMALL_RANGES, exhaustive=exhaustive)
    for problem in problems:
        made.add(problem)
    return made


def taught(without: LoraProblem) -> Experience:
    found = Experience()
    found.learn_recordings(r for r in read_recordings(BUNDLED) if r.problem != without)
    return found


@pytest.mark.parametrize("exhaustive", [False, True])
def test_every_binary_comes_once_the_defaults_first(exhaustive: bool) -> None:
    problems = [PROBLEM, replace(PROBLEM, m=1024), replace(PROBLEM, k=14336)]
    order = list(likely(Experience(), *problems, exhaustive=exhaustive))
    keys = [wanted.key for wanted in order]
    spec = kernel_spec("lora_shrink")
    defaults = {FakeTarget().key(p, spec.default_config(p)) for p in problems}
    assert len(set(keys)) == len(keys)
    assert set(keys[: len(defaults)]) == defaults
    assert all(FakeTarget().key(wanted.problem, wanted.config) == wanted.key for wanted in order)


def test_all_is_more_than_what_is_worth_compiling() -> None:
    some, everything = (likely(Experience(), PROBLEM, exhaustive=exhaustive) for exhaustive in (False, True))
    assert {w.key for w in some} < {w.key for w in everything}
    assert len(some) == len(list(some))


def test_problems_that_share_a_binary_name_it_once() -> None:
    one, both = likely(Experience(), PROBLEM), likely(Experience(), PROBLEM, replace(PROBLEM, m=32))
    assert {w.key for w in one} == {w.key for w in both}


def test_the_order_is_the_same_every_time() -> None:
    experience = Experience()
    experience.learn_recordings([sliced(SHRINK, m=m) for m in (16, 256)])
    first, second = (list(likely(experience, PROBLEM)) for _ in range(2))
    assert first == second
    assert first != list(likely(Experience(), PROBLEM)), "what is known decides"


def test_what_other_problems_teach_comes_first() -> None:
    """A recorded problem, of which nothing is told: the good configs are many times as frequent among the first."""
    recording = bundled(SHRINK)
    made = Likely(FakeTarget(), taught(recording.problem).of, spaces={"lora_shrink": dict(recording.space.ranges)})
    made.add(recording.problem)
    times = [recording.time_us(wanted.config) for wanted in made]
    good = [time_us is not None and time_us <= 1.1 * recording.best_time_us for time_us in times]
    assert np.mean(good[:50]) >= 5 * np.mean(good)
    assert min(t for t in times[:50] if t is not None) <= 1.03 * recording.best_time_us


def test_without_histories_the_first_ones_differ_in_every_parameter() -> None:
    order = list(likely(Experience(), PROBLEM))
    for name, values in SMALL_RANGES["lora_shrink"].items():
        found = {wanted.config[name] for wanted in order[1:13]}
        assert found == {v for v in values if any(w.config[name] == v for w in order[1:])}


def test_a_recording_teaches_all_its_times() -> None:
    recording = bundled(SHRINK)
    history = recorded_history(recording)
    assert history is not None
    assert len(history.times) == sum(entry.time_us is not None for entry in recording.entries.values())
    assert history.times.min() == recording.best_time_us
    assert recorded_history(replace(recording, entries=dict(list(recording.entries.items())[:2]))) is None
