"""Why a search ended, told from what is stored of it: by results of earlier versions too."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from bo_tune.core.conclusion import Certificate, EndedBy
from bo_tune.search import StopRule
from bo_tune.store.result import StudyResult
from bo_tune.store.results import Costs

RULE = asdict(StopRule())
CONFIG = {"block_m": 16}
RESULT = StudyResult(
    CONFIG, 5.0, 6.0, [(CONFIG, 5.0)], 20, "grid-gp", "2026-01-02T03:04:05+00:00",
    Certificate(0.01, 0.16, 20), RULE, Costs(20, 20, 900, {}, 20, 1.0, 1.0), asked={"budget": 40},
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({}, EndedBy.TAUGHT, "taught, 20 configs"),
        ({"certificate": Certificate(0.01, 0.93, 12)}, EndedBy.SURE, "93 % sure, 20 configs"),
        ({"certificate": Certificate(0.01, 1.0, 9, exhausted=True)}, EndedBy.EXHAUSTED, "all tried, 20 configs"),
        ({"ended_by": {**RULE, "most": 20}}, EndedBy.MOST, "most allowed, 20 configs"),
        ({"ended_by": None, "asked": {"budget": 20}}, EndedBy.BUDGET, "budget, 20 configs"),
        ({"ended_by": None, "certificate": None, "asked": {"budget": 20}}, EndedBy.BUDGET, "budget, 20 configs"),
        ({"ended_by": None, "asked": {"budget": 21}}, EndedBy.NOTHING_LEFT, "nothing left, 20 configs"),
        (
            {"ended_by": None, "certificate": None, "sampler": "grid", "asked": {"budget": None}},
            EndedBy.EXHAUSTED,
            "all tried, 20 configs",
        ),
    ],
)
def test_the_reason(changes: dict[str, Any], reason: EndedBy, words: str) -> None:
    ending = replace(RESULT, **changes).ending
    assert ending is not None
    assert (ending.reason, str(ending)) == (reason, words)


def test_what_schema_1_does_not_tell_is_not_guessed() -> None:
    assert replace(RESULT, ended_by=None, asked=None).ending is None


def test_one_config_is_one() -> None:
    ending = replace(RESULT, costs=replace(RESULT.costs, launched_configs=1)).ending
    assert str(ending) == "taught, 1 config"


def test_the_expected_loss_is_kept_and_may_be_missing() -> None:
    """As of earlier versions, which pass over it in turn."""
    certificate = Certificate(0.01, 0.5, 20, expected_loss=0.0016)
    stored = replace(RESULT, certificate=certificate).to_json()
    assert stored["certificate"]["expected_loss"] == 0.0016
    assert StudyResult.from_json(stored).certificate == certificate
    del stored["certificate"]["expected_loss"]
    assert StudyResult.from_json(stored).certificate == replace(certificate, expected_loss=None)
    with pytest.raises(ValueError, match="expected_loss"):
        StudyResult.from_json({**stored, "certificate": {**stored["certificate"], "expected_loss": -1.0}})
