"""The page's charts as Vega-Lite. Their colours are CSS variables, whose values the page's style sheet sets.

Static charts become SVG when the page is made, so that they show without JavaScript. The chart of a single problem is
drawn in the browser, for the problem that is chosen there.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf
from statistics import quantiles
from typing import Any

from bo_tune.analysis.review.case import Case, Step
from bo_tune.analysis.review.noise import NoiseBand

Spec = dict[str, Any]

WIDTH, HEIGHT = 620, 260
MOST_LINES = 100
"""Cases whose curves are drawn one by one. With more cases, only the quantiles are drawn."""

MOST_POINTS = 200
"""Points of a percentile's curve, at most."""

MOST_POINTED_AT = 40
"""Searches, and points of a percentile's curve, that explain themselves to the mouse pointer: 0.3 kB each."""

MOST_EXCESS = 200.0
"""Curves are cut off above this, in %."""

INK, FAINT, GRID = "var(--ink)", "var(--faint)", "var(--line)"
BLUE, ORANGE, GREEN = "var(--blue)", "var(--orange)", "var(--green)"

_AXES = {
    "domainColor": FAINT,
    "tickColor": FAINT,
    "gridColor": GRID,
    "labelColor": INK,
    "titleColor": INK,
    "titleFontWeight": "normal",
    "labelFontSize": 12,
    "titleFontSize": 12,
}
_CONFIG: Spec = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": _AXES,
    "legend": {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal", "labelFontSize": 12},
}


_BELOW_EACH_OTHER = {"direction": "vertical", "offset": 4}
"""Layout of legends that leaves a narrow window's width to the chart."""


def _chart(description: str, **more: Any) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "config": _CONFIG,
        **more,
    }


Curve = list[tuple[int, float]]
"""Configs launched, or launches, and how far the best so far was above the best, in %. It descends in steps."""


def _excess(case: Case, by: Callable[[Step], int] = lambda step: step.launched) -> Curve:
    """Return a search as (launched, best so far above the best, in %), where the best is the grid's if it is known.

    Args:
        by: what to count; by default, configs launched.
    """
    if case.best_us:
        return [(by(s), 100 * (s.true_us / case.best_us - 1)) for s in case.steps if s.true_us]
    return [(by(s), 100 * (s.best_us / case.steps[-1].best_us - 1)) for s in case.steps]


def convergence(cases: Sequence[Case]) -> Spec | None:
    """Draw the searches of a family over each other, and how sure each was at its end; None if none has times."""
    curves = [curve for case in cases if (curve := _excess(case))]
    if not curves:
        return None
    return _chart(
        "Excess of the best so far over the best of all, by configs launched, and certainty of the models at the "
        f"end: {len(cases)} searches",
        hconcat=[_curves(curves, "configs launched"), _certainty(cases)],
        spacing=36,
    )


def by_launches(cases: Sequence[Case]) -> Spec | None:
    """Draw the searches of a family over the launches of the kernel that they took; None if none has times."""
    curves = [curve for case in cases if (curve := _excess(case, lambda step: step.launches))]
    if not curves:
        return None
    said = f"Excess of the best so far over the best of all, by launches of the kernel: {len(cases)} searches"
    return _chart(said, **_curves(curves, "launches of the kernel"))


def _curves(curves: Sequence[Curve], counted: str) -> Spec:
    """Draw the median of curves, the band between their outer tenths, and each curve if they are few."""
    first, most = max(curve[0][0] for curve in curves), max(curve[-1][0] for curve in curves)
    tenths = {x: _tenths([_at(curve, x) for curve in curves]) for x in _sampled(first, most)}
    middle: list[dict[str, Any]] = [{"x": x, "low": q[0], "median": q[4], "high": q[8]} for x, q in tenths.items()]
    lines: list[dict[str, Any]] = [
        {"s": number, "x": x, "y": min(y, MOST_EXCESS)}
        for number, curve in enumerate(curves if len(curves) <= MOST_LINES else [])
        for x, y in curve
    ]
    top = max(5.0, *(row["high"] for row in middle), *(row["y"] for row in lines))
    domain = {"domain": [0, most], "nice": False}
    x = {"field": "x", "type": "quantitative", "title": counted, "scale": domain}
    scale = {"type": "symlog", "constant": 2, "domain": [0, top], "nice": False, "clamp": True}
    axis = {"values": [v for v in (0, 1, 2, 5, 10, 20, 50, 100, 200) if v <= top]}
    y = {"type": "quantitative", "scale": scale, "title": "excess over the best of all, %", "axis": axis}
    stepped = {"interpolate": "step-after"}
    for row in middle:
        low, half, high = (f"{row[name]:.2f}" for name in ("low", "median", "high"))
        row["says"] = f"{row['x']:,} {counted}: median {half} %, 10th to 90th percentile {low} to {high} %"
    for row in lines:
        row["says"] = f"{row['x']:,} {counted}: {row['y']:.2f} % above the best"
    layers: list[Spec] = [
        {
            "data": {"values": middle},
            "mark": {"type": "area", "color": BLUE, "opacity": 0.18, **stepped},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {
            "data": {"values": lines},
            "mark": {"type": "line", "color": FAINT, "opacity": 0.55, "strokeWidth": 0.8, **stepped},
            "encoding": {"x": x, "y": {**y, "field": "y"}, "detail": {"field": "s"}},
        },
        {
            "data": {"values": middle},
            "mark": {"type": "line", "color": BLUE, "strokeWidth": 2.5, **stepped},
            "encoding": {"x": x, "y": {**y, "field": "median"}},
        },
        _pointed_at(lines if len(curves) <= MOST_POINTED_AT else [], x, {**y, "field": "y"}),
        _pointed_at(middle[:: 1 + len(middle) // MOST_POINTED_AT], x, {**y, "field": "median"}),
    ]
    return {"width": WIDTH, "height": HEIGHT, "layer": layers}


def _pointed_at(rows: Sequence[Mapping[str, Any]], x: Spec, y: Spec) -> Spec:
    """Return invisible marks that explain a point to the mouse pointer."""
    return {
        "data": {"values": list(rows)},
        "mark": {"type": "point", "filled": True, "opacity": 0, "size": 90},
        "encoding": {"x": x, "y": y, "description": {"field": "says"}},
    }


def _certainty(cases: Sequence[Case]) -> Spec:
    """Draw how sure the model of each search was at its end."""
    ends = [
        {
            "x": study.costs.launched_configs,
            "y": 100 * study.certificate.probability,
            "says": f"{study.name.problem.shape_label}: {study.certificate.probability:.0%} sure, "
            f"{study.ending or f'{study.costs.launched_configs} configs'}",
        }
        for case in cases
        for study in case.studies
        if study.certificate
    ]
    return {
        "width": WIDTH // 3,
        "height": HEIGHT,
        "data": {"values": ends},
        "mark": {"type": "point", "color": BLUE, "filled": True, "opacity": 0.5, "size": 40},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": "configs launched at the end"},
            "y": {"field": "y", "type": "quantitative", "title": "sure, %", "scale": {"domain": [0, 100]}},
            "description": {"field": "says"},
        },
    }


def _sampled(first: int, most: int) -> list[int]:
    """Return counts of launched configs: about ``MOST_POINTS``, and the last one."""
    return [*range(first, most, max(1, ceil((most - first) / MOST_POINTS))), most]


def _at(curve: Curve, x: int) -> float:
    """Return the curve's value at x."""
    return curve[bisect_right(curve, (x, inf)) - 1][1]


def _tenths(values: Sequence[float]) -> list[float]:
    kept = [min(value, MOST_EXCESS) for value in values]
    return quantiles(kept, n=10, method="inclusive") if len(kept) > 1 else kept * 9


def noise(bands: Sequence[NoiseBand]) -> Spec:
    """Draw how far repetitions are apart, by the time of the config."""
    rows = [
        {
            "us": (band.low_us * band.high_us) ** 0.5,
            "what": what,
            "spread": 100 * value,
            "says": f"{band.low_us:g} to {band.high_us:g} us, {band.configs:,} configs: {what} {100 * value:.1f} %",
        }
        for band in bands
        for what, value in (("median", band.median), ("90th percentile", band.p90))
    ]
    whose = {"field": "what", "type": "nominal", "title": "of configs", "legend": {"orient": "top"}}
    domain = ["median", "90th percentile"]
    return _chart(
        "Spread of the repetitions of a config, by its time",
        width=WIDTH,
        height=HEIGHT,
        data={"values": rows},
        layer=[{"mark": {"type": "line"}}, {"mark": {"type": "point", "filled": True, "size": 50}}],
        encoding={
            "description": {"field": "says"},
            "x": {
                "field": "us",
                "type": "quantitative",
                "scale": {"type": "log", "nice": False, "padding": 20},
                "title": "time of the config, us",
            },
            "y": {"field": "spread", "type": "quantitative", "title": "spread of repetitions, %"},
            "color": {**whose, "scale": {"domain": domain, "range": [BLUE, ORANGE]}},
            "shape": {**whose, "scale": {"domain": domain, "range": ["circle", "square"]}},
        },
    )


DETAIL_MARKS: Mapping[str, tuple[str, str]] = {
    "measured": ("circle", BLUE),
    "slow, stopped early": ("triangle-up", ORANGE),
    "invalid": ("cross", FAINT),
}
"""The marks for trials of one problem, by their outcome."""

DETAIL_LINES: Mapping[str, tuple[str, list[int]]] = {
    "default": (ORANGE, [2, 3]),
    "chosen": (BLUE, [7, 4]),
    "best of the grid": (GREEN, [1, 0]),
}
"""Colours and dashes of the horizontal lines."""


_US = {
    "field": "us",
    "type": "quantitative",
    "title": "us",
    "scale": {"type": "log", "nice": False, "padding": 12},
    "axis": {"tickCount": 6, "format": "~r"},
}
_LAUNCHED = {
    "field": "x",
    "type": "quantitative",
    "title": "configs launched",
    "axis": {"format": "d", "tickMinStep": 1},  # otherwise a wide page has 0.0, 0.5 or 1.0 of them
}
_TIP = {"field": "us", "title": "us", "format": ".2f"}


def detail() -> Spec:
    """Return the chart of one problem. Its data (``levels``, ``steps`` and ``trials``) are filled in by the browser."""
    steps: Spec = {
        "data": {"name": "steps"},
        "mark": {"type": "line", "interpolate": "step-after", "color": INK, "strokeWidth": 2},
        "encoding": {"x": _LAUNCHED, "y": _US},
    }
    legend = {**_CONFIG["legend"], "orient": "top", "layout": {"top": _BELOW_EACH_OTHER}}
    return {
        **_chart("Trials of one problem, in the order they were launched", layer=[_levels(), steps, _trials()]),
        "width": "container",
        "height": 320,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": {**_CONFIG, "legend": legend},
    }


def _levels() -> Spec:
    what = {"field": "what", "type": "nominal", "title": "levels"}
    colours = _scale({name: colour for name, (colour, _) in DETAIL_LINES.items()})
    dashes = _scale({name: dash for name, (_, dash) in DETAIL_LINES.items()})
    return {
        "data": {"name": "levels"},
        "mark": {"type": "rule", "strokeWidth": 1.8},
        "encoding": {
            "y": _US,
            "stroke": {**what, "scale": colours},
            "strokeDash": {**what, "scale": dashes},
            "tooltip": [{"field": "what", "title": "level"}, _TIP],
        },
    }


def _trials() -> Spec:
    what = {"field": "what", "type": "nominal", "title": "trials"}
    shapes = _scale({name: shape for name, (shape, _) in DETAIL_MARKS.items()})
    colours = _scale({name: colour for name, (_, colour) in DETAIL_MARKS.items()})
    return {
        "data": {"name": "trials"},
        "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.9},
        "encoding": {
            "x": _LAUNCHED,
            "y": _US,
            "shape": {**what, "scale": shapes},
            "color": {**what, "scale": colours},
            "tooltip": [
                {"field": "config", "title": "config"},
                _TIP,
                {"field": "why", "title": "outcome"},
                {"field": "launches", "title": "launches so far", "format": ","},
            ],
        },
    }


def _scale(values: Mapping[str, Any]) -> Spec:
    return {"domain": list(values), "range": list(values.values())}
