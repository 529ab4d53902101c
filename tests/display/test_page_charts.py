"""What the report's charts are made of."""

from dataclasses import replace

import pytest
from helpers import H100, SHRINK, bundled

from bo_tune.analysis.review.case import Case, Step
from bo_tune.analysis.review.noise import NoiseBand
from bo_tune.analysis.review.study import StudyReview, review_study
from bo_tune.core.conclusion import Certificate
from bo_tune.core.study_name import StudyName
from bo_tune.display.page import charts, vega, words
from bo_tune.store.attributes import GPU_ATTR
from bo_tune.store.storage import StudySummary


def _study(launched: int, probability: float) -> StudyReview:
    name = StudyName(bundled(SHRINK).problem, H100.name, "source")
    study = review_study(StudySummary(1, name, {GPU_ATTR: H100.to_json()}), [])
    certificate = Certificate(tolerance=0.01, probability=probability)
    return replace(study, certificate=certificate, costs=replace(study.costs, launched_configs=launched))


def _case(steps: list[tuple[int, float, float | None]], best_us: float | None = None, probability: float = 0.5) -> Case:
    study = _study(steps[-1][0] if steps else 0, probability)
    return Case(
        [study],
        20.0,
        10.0,
        [Step(launched, 11 * launched, *times) for launched, *times in steps],
        best_us,
        None,
        [{}],
        None,
    )


def _layers(spec: charts.Spec) -> list[list[dict[str, float]]]:
    return [layer["data"]["values"] for layer in spec["hconcat"][0]["layer"]]


def test_curves_are_in_percent_above_the_searchs_own_best() -> None:
    spec = charts.convergence([_case([(1, 20.0, None), (4, 10.0, None), (8, 10.0, None)])])
    assert spec is not None
    middle, lines, *_ = _layers(spec)
    assert [(row["x"], row["y"]) for row in lines] == [(1, 100.0), (4, 0.0), (8, 0.0)]
    assert [row["median"] for row in middle] == [100.0] * 3 + [0.0] * 5
    (end,) = spec["hconcat"][1]["data"]["values"]
    assert (end["x"], end["y"]) == (8, 50.0)


def test_the_same_curves_by_launches() -> None:
    """Ten launches and a check of each config here."""
    spec = charts.by_launches([_case([(1, 20.0, None), (4, 10.0, None)])])
    assert spec is not None
    lines = spec["layer"][1]["data"]["values"]
    assert [(row["x"], row["y"]) for row in lines] == [(11, 100.0), (44, 0.0)]
    assert charts.by_launches([_case([])]) is None


def test_every_chart_says_what_is_pointed_at() -> None:
    case = _case([(1, 20.0, None), (4, 10.0, None)])
    band = NoiseBand(4.0, 8.0, 20, 0.05, 0.09)
    for spec, said in (
        (charts.convergence([case]), "4 configs launched: 0.00 % above the best"),
        (charts.convergence([case]), "50% sure, 4 configs"),
        (
            charts.by_launches([case]),
            "44 launches of the kernel: median 0.00 %, 10th to 90th percentile 0.00 to 0.00 %",
        ),
        (charts.noise([band]), "4 to 8 us, 20 configs: 90th percentile 9.0 %"),
    ):
        assert spec is not None
        assert f"{said}</title>" in vega.svg(spec)
    trials = charts.detail()["layer"][-1]["encoding"]["tooltip"]
    assert [one["field"] for one in trials] == ["config", "us", "why", "launches"]


def test_where_the_grid_is_known_its_times_and_its_best_count() -> None:
    spec = charts.convergence([_case([(1, 20.0, 24.0), (4, 10.0, 12.0)], best_us=8.0)])
    assert spec is not None
    assert [row["y"] for row in _layers(spec)[1]] == pytest.approx([200.0, 50.0])


def test_a_search_that_ended_keeps_its_last_value_in_the_median() -> None:
    cases = [_case([(1, 30.0, None), (2, 10.0, None)]), _case([(1, 11.0, None), (5, 10.0, None)])]
    spec = charts.convergence(cases)
    assert spec is not None
    middle = _layers(spec)[0]
    assert [row["x"] for row in middle] == [1, 2, 3, 4, 5]
    assert [row["median"] for row in middle] == pytest.approx([105.0, 5.0, 5.0, 5.0, 0.0])


def test_of_many_searches_only_percentiles_are_drawn() -> None:
    case = _case([(1, 20.0, None), (4, 10.0, None)])
    few, many = (charts.convergence([case] * n) for n in (charts.MOST_LINES, charts.MOST_LINES + 1))
    assert few is not None
    assert many is not None
    assert len(_layers(few)[1]) == 2 * charts.MOST_LINES
    assert _layers(many)[1] == []
    assert len(_layers(many)[0]) == 4


def test_a_long_search_is_sampled() -> None:
    spec = charts.convergence([_case([(1, 20.0, None), (5000, 10.0, None)])])
    assert spec is not None
    middle = _layers(spec)[0]
    assert len(middle) <= charts.MOST_POINTS + 1
    assert (middle[0]["x"], middle[-1]["x"]) == (1, 5000)


def test_nothing_measured_nothing_drawn() -> None:
    assert charts.convergence([_case([])]) is None


def test_charts_are_drawn_in_the_pages_colours_and_described() -> None:
    drawn = vega.svg(charts.noise([NoiseBand(4.0, 8.0, 20, 0.05, 0.09), NoiseBand(8.0, 16.0, 20, 0.02, 0.04)]))
    assert drawn.startswith('<svg role="img" aria-label="Spread of the repetitions')
    assert 'stroke="var(--blue)"' in drawn
    assert 'fill="var(--ink)"' in drawn
    assert "white" not in drawn


@pytest.mark.slow
def test_what_draws_in_the_browser_is_whole() -> None:
    script = vega.bundle()
    assert "vegaEmbed" in script
    assert script == vega.bundle()


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (words.config({"block_m": 16, "num_ctas": 1, "split_k": 8, "rows": 4}), "m16 sk8 rows=4"),
        (words.config({"block_m": 16, "num_ctas": 2}), "m16 num_ctas=2"),
        (words.config(None), "–"),
        (words.us(1234.567), "1,234.57"),
        (words.seconds(9.96), "10.0 s"),
        (words.seconds(36.4), "36 s"),
        (words.seconds(480.0), "8.0 min"),
        (words.seconds(19565.0), "5.4 h"),
        (words.share(0.905), "90 %"),
        (words.percent(None), "–"),
        (words.problems(1), "1 problem"),
        (words.ratio(49.64), "50×"),
        (words.ratio(2.04), "2.0×"),
    ],
)
def test_numbers_are_short(shown: str, text: str) -> None:
    assert shown == text
