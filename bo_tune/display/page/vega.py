"""Draws Vega-Lite charts, in a process of its own.

The renderer contains a JavaScript engine. If it gets too little memory, it ends its process and prints a page of
addresses.
"""

import json
import re
import sys
from html import escape
from typing import Any

import vl_convert

VEGA_LITE = "6.4"

_SAYS = re.compile(
    r'(<path aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="point"[^>]*?)(?:/>|></path>)'
)
"""A point that says what it stands for, but only to screen readers. With a title in it, a browser shows that to the
mouse pointer, without JavaScript."""


def svg(spec: dict[str, Any]) -> str:
    """Draw a chart, with its description for those who do not see it."""
    drawn: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    drawn = _SAYS.sub(r"\1><title>\2</title></path>", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(spec["description"])}" ', 1)


def bundle() -> str:
    """Return the JavaScript that draws charts in a browser. It defines ``vegaEmbed``."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return script


def main() -> None:
    """Draw the list of charts from stdin, and write them and the JavaScript to stdout."""
    json.dump({"svgs": [svg(spec) for spec in json.load(sys.stdin)], "bundle": bundle()}, sys.stdout)
