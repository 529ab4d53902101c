"""Renders the page. Everything that it needs is inlined, so that a browser fetches nothing."""

import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from math import log
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bo_tune.analysis.review import Review
from bo_tune.analysis.review.against import Against
from bo_tune.analysis.step import StepReport
from bo_tune.display.page import charts, words
from bo_tune.display.page.content import Page
from bo_tune.display.page.drawing import DrawingError, draw
from bo_tune.display.step import STREAMS, step_lines

FULL_COLOUR = 4.0
"""Speed-up or slow-down from which a heat map's cells have the deepest colour."""

LEGEND = (0.8, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
"""Speed-ups whose colours are shown below heat maps."""


def render(
    review: Review,
    *,
    title: str,
    storage: str,
    step: StepReport | None = None,
    against: Against | None = None,
    made: Sequence[tuple[str, str]] = (),
    note: Callable[[str], object] = lambda _: None,
) -> str:
    """Return the page.

    Args:
        title: of the page; what was tuned.
        storage: URL of the database, without a password.
        step: what adapters add to an engine's step, if that was timed.
        against: the same problems in another database.
        made: more about how the page was made: (what, words).
        note: called with the reason why the page has no charts, if they could not be drawn.
    """
    environment = Environment(
        loader=PackageLoader("bo_tune.display.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            name: getattr(words, name)
            for name in ("us", "times", "percent", "share", "count", "seconds", "config", "problems", "ratio")
        },
        certificate=words.certificate,
        loss=words.loss,
        depth=depth,
        breakable=breakable,
    )
    page = Page(review)
    charts_of = _Charts(page, note)
    return environment.get_template("page.html.jinja").render(
        page=page,
        review=review,
        title=title,
        storage=storage,
        step=step,
        versus=against,
        made=made,
        step_says=step_lines(step) if step else [],
        streams=STREAMS,
        legend=LEGEND,
        style=_asset("style.css"),
        scripts=[*map(_script, _scripts(charts_of))],
        charts=charts_of,
        data=_json(page.data()),
        detail=_json(charts.detail()),
    )


def breakable(name: str) -> Markup:
    """Return a name that may be broken into lines after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def depth(speed_up: float | None) -> float:
    """Return the colour depth of a speed-up, from 0 at 1 to 1 at ``FULL_COLOUR``. Slow-downs count alike."""
    return 0.0 if not speed_up else min(1.0, abs(log(speed_up)) / log(FULL_COLOUR))


class _Charts:
    """The page's charts, by name: ``noise``, and the number of a family whose searches converge.

    Attributes:
        missing: why they could not be drawn.
        bundle: the JavaScript that draws the chart of one search; empty if there is nothing to draw.
    """

    def __init__(self, page: Page, note: Callable[[str], object]) -> None:
        specs: dict[int | str, charts.Spec] = {
            number: spec for number, family in enumerate(page.families) if (spec := charts.convergence(family.cases))
        }
        specs |= {
            f"launches {number}": spec
            for number, family in enumerate(page.families)
            if (spec := charts.by_launches(family.cases))
        }
        if page.noise:
            specs["noise"] = charts.noise(page.noise)
        self.missing, self.bundle, self._svgs = "", "", dict[int | str, Markup]()
        if not specs:
            return
        try:
            drawn = draw(list(specs.values()))
        except DrawingError as error:
            self.missing = f"the renderer of charts {error}; it may need more memory than it may use (ulimit -v)"
            note(self.missing)
            return
        self.bundle = drawn.bundle if page.drawn else ""
        self._svgs = {name: Markup(svg) for name, svg in zip(specs, drawn.svgs, strict=True)}

    def __getitem__(self, name: int | str) -> Markup:
        return self._svgs.get(name, Markup())


def _scripts(drawn: _Charts) -> list[str]:
    """Return the scripts of the page. Those that draw are included only if there is a curve to draw."""
    sort = [_asset("vendor/sortable.min.js"), _asset("vendor/sortable.a11y.min.js")]
    return [*sort, *([drawn.bundle, _asset("page.js")] if drawn.bundle else [])]


def _asset(name: str) -> str:
    return files("bo_tune.display.page").joinpath(name).read_text(encoding="utf-8")


def _script(text: str) -> Markup:
    """Escape a script for HTML, where a ``</script`` in its text would end it."""
    return Markup(text.replace("</script", r"<\/script").replace("<!--", r"<\!--"))


def _json(content: Any) -> Markup:
    """Return JSON escaped for HTML."""
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))
