"""Draws ``docs/images/console.svg``: the live display of a real session on the bundled recordings.

``python docs/screenshot.py`` runs it in a pseudo-terminal, reads every screen, and keeps the fullest one.
"""

import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

from pyte.screens import Char, Screen
from rich.color import ANSI_COLOR_NAMES
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from helpers import BUNDLED, command  # noqa: E402
from terminal import terminal  # noqa: E402

IMAGE = ROOT / "docs" / "images" / "console.svg"
COLUMNS, ROWS = 100, 22
MARGIN = 4
"""Columns to spare: fonts differ in width."""

WORDS = ("tune", "--device", "replay:recordings")


def style_of(char: Char) -> Style:
    """Return the style of a cell; of colours that have no name there is the value."""
    name = {"brown": "yellow"}.get(char.fg, char.fg.replace("bright", "bright_"))
    colour = name if name in ANSI_COLOR_NAMES else f"#{name}" if re.fullmatch("[0-9a-f]{6}", name) else None
    return Style(color=colour, bold=char.bold or None)


def drawn(screen: Screen) -> list[Text]:
    """Return the lines of a screen as they look, without empty ones at the end."""
    lines = []
    for row in range(screen.lines):
        cells = [screen.buffer[row][column] for column in range(screen.columns)]
        line = Text.assemble(*((cell.data, style_of(cell)) for cell in cells))
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def fullness(lines: list[Text]) -> int:
    """Count what a screen shows: studies with a certificate, and what happened last."""
    text = "\n".join(line.plain for line in lines)
    return 3 * len(re.findall(r"x +0\.\d\d$", text, re.MULTILINE)) + text.count("tuned ")


def main() -> None:
    """Run the session and write the image."""
    screens: list[list[Text]] = []
    with tempfile.TemporaryDirectory() as folder:
        recordings = Path(folder) / "recordings"
        recordings.mkdir()
        for path in [*BUNDLED.glob("*.gz"), *(BUNDLED / "moe").glob("*.gz")]:
            shutil.copy(path, recordings)
        with terminal(command(*WORDS), columns=COLUMNS, rows=ROWS, cwd=Path(folder)) as shown:
            while shown.read():
                if "━" in shown.text:
                    screens.append(drawn(shown.screen))
    console = Console(record=True, width=COLUMNS + MARGIN, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ bo-tune {' '.join(WORDS)}"))
    for line in max(screens, key=fullness):
        console.print(line, no_wrap=True, overflow="crop")
    # Without the fonts that it would fetch.
    image = re.sub(r"@font-face \{[^}]*\}\s*", "", console.export_svg(title="bo-tune"))
    IMAGE.write_text(image)


if __name__ == "__main__":
    main()
