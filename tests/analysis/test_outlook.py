"""What tuning will cost: estimated as sessions were measured."""

import pytest
from helpers import ROOT

from bo_tune.analysis.outlook import outlook
from bo_tune.core.problem import LoraProblem, SizedProblem
from bo_tune.formats.study_file import load_study_file


@pytest.mark.parametrize(
    ("study", "studies", "binaries", "seconds"),
    [("llama-3.1-8b-96", 84, 807, 61), ("qwen3-30b-a3b-moe", 36, 497, 47)],  # results/llama-3.1-8b-96.h100, moe.h200
)
def test_sessions_that_were_measured(study: str, studies: int, binaries: int, seconds: float) -> None:
    expected = outlook(load_study_file(ROOT / "studies" / f"{study}.toml").problems(), budget=40)
    assert expected.studies == studies
    assert expected.binaries == pytest.approx(binaries, rel=0.1)
    assert 60 * expected.minutes == pytest.approx(seconds, rel=0.1)


def test_a_small_budget_and_problems_of_others() -> None:
    problems = [LoraProblem("lora_shrink", 4, 1, m, 4096, 16) for m in (1, 16)]
    assert outlook(problems, budget=5).binaries == 10
    assert outlook(problems, budget=40).binaries == 24 + 8
    other = outlook([*problems, SizedProblem("mine", (("n", 64),))], budget=40)
    assert (other.studies, other.binaries, other.minutes) == (3, None, None), "of no such session a time is known"
