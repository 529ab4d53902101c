"""Conditions: labels that keep studies apart, and JSON."""

import json

import pytest

from bo_tune.core.conditions import Conditions, Routing, Timing, Tokens

UNUSUAL = (
    Conditions(Timing.WARM),
    Conditions(tokens=Tokens.ZIPF),
    Conditions(adapters=2),
    Conditions(adapters=3),
    Conditions(routing=Routing.ZIPF),
    Conditions(routing=Routing.RECORDED, hits=(1, 2)),
    Conditions(routing=Routing.RECORDED, hits=(2, 1)),
    Conditions(Timing.GRAPH, Tokens.ONE, 1, Routing.ZIPF),
    Conditions(dual_stream=True),
)


def test_what_is_as_usual_has_no_label() -> None:
    assert Conditions().label == ""
    assert Conditions(Timing.WARM, Tokens.ZIPF).label == "warm.zipf"


def test_different_conditions_have_different_labels() -> None:
    assert len({conditions.label for conditions in (Conditions(), *UNUSUAL)}) == 1 + len(UNUSUAL)


@pytest.mark.parametrize("conditions", [Conditions(), *UNUSUAL], ids=str)
def test_they_survive_json(conditions: Conditions) -> None:
    again = Conditions.from_json(json.loads(json.dumps(conditions.to_json())))
    assert again == conditions
    assert again.label == conditions.label


@pytest.mark.parametrize(
    "given",
    [{"routing": Routing.RECORDED}, {"hits": (1, 2)}, {"adapters": 0}, {"routing": Routing.RECORDED, "hits": (-1,)}],
)
def test_what_means_nothing_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"recorded routing|uses at least one"):
        Conditions(**given)  # type: ignore[arg-type]
