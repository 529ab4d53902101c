"""What tuning gains the steps that were observed, from measured studies."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from observed_engine import expand, shrink, steps, written

from bo_tune.analysis.observed_time import ObservedTime
from bo_tune.core.problem import LoraProblem
from bo_tune.display.results import observed_lines
from bo_tune.engines.vllm.observed.load import estimate_us
from bo_tune.engines.vllm.observed.study import ObservedStudy

SHRINK = LoraProblem("lora_shrink", 4, 1, 16, 4096, 16)
EXPAND = LoraProblem("lora_expand", 4, 1, 16, 16, 4096, add_inputs=True)


def tuned(times: Mapping[LoraProblem, tuple[float | None, float]]) -> Any:
    """Studies with these times, default and tuned; us."""
    return [
        SimpleNamespace(
            job=SimpleNamespace(problem=problem), result=SimpleNamespace(default_time_us=before, time_us=after)
        )
        for problem, (before, after) in times.items()
    ] + [SimpleNamespace(job=SimpleNamespace(problem=SHRINK), result=None)]


def study(folder: Path, *load: dict[str, Any]) -> ObservedStudy:
    seen = [line for m in (16, 64) for line in (shrink(m), expand(m, 4096))]
    return ObservedStudy.of(written(folder / "l.jsonl", *seen, *load), [16])


def test_steps_at_a_key_take_what_was_measured(tmp_path: Path) -> None:
    observed = study(tmp_path, steps(16, 16, 16, 4, count=10), steps(9, 16, 9, 0, count=99))
    time = cast(ObservedTime, ObservedTime.of(observed, tuned({SHRINK: (10.0, 6.0), EXPAND: (None, 4.0)})))
    assert (time.steps, time.at_keys, time.near_keys) == (10, 1.0, 0.0)
    assert (time.default_us, time.tuned_us) == (pytest.approx(14.0), pytest.approx(10.0))
    assert time.speed_up == pytest.approx(1.4)
    (line,) = observed_lines(time)
    assert line.startswith(
        "in the 10 observed steps, adapters' kernels take 14 us per step with the defaults and 10 us tuned"
    )


def test_others_take_the_nearest_keys_or_stay_as_they_are(tmp_path: Path) -> None:
    observed = study(tmp_path, steps(16, 16, 16, 4), steps(64, 64, 64, 4))
    time = cast(ObservedTime, ObservedTime.of(observed, tuned({SHRINK: (10.0, 5.0)})))
    scale = estimate_us(replace(SHRINK, m=64), 4) / estimate_us(SHRINK, 4)
    untouched = sum(estimate_us(replace(EXPAND, m=m), 4) for m in (16, 64))
    assert time.default_us == pytest.approx((10 + 10 * scale + untouched) / 2)
    assert time.tuned_us == pytest.approx((5 + 5 * scale + untouched) / 2)
    assert time.at_keys == pytest.approx(10 / (2 * time.default_us))
    assert time.near_keys == pytest.approx(10 * scale / (2 * time.default_us))
    assert "% not tuned" in observed_lines(time)[0]


def test_without_steps_nothing_is_told(tmp_path: Path) -> None:
    assert ObservedTime.of(study(tmp_path), tuned({SHRINK: (10.0, 5.0)})) is None
    assert observed_lines(None) == []
