"""Draws the pictures of pages: the report (light, dark, on a phone, printed) and optuna-dashboard.

``python docs/pictures.py`` tunes the bundled H200 recordings, opens what comes of it in a headless Chromium, and writes
``docs/images/report-*.png`` and ``dashboard.png``. Needs Pillow, which comes with the extra ``bench``.
"""

import socket
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image, ImageOps
from playwright.sync_api import Browser, FloatRect, Page, ViewportSize

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from browser import MISSING, chromium, running  # noqa: E402
from helpers import command  # noqa: E402

IMAGES = ROOT / "docs" / "images"
RECORDINGS = ROOT / "studies" / "recordings" / "h200"
DATABASE, REPORT, SESSION = "bo_tune.db", "report.html", "session.json"

WIDTH, PHONE = 1280, 400
COLOURS = 256
SCROLLED = 150
"""How far the table on the phone is scrolled, in CSS pixels."""

A4_ACROSS, A4_MARGIN = (1032, 703), 45
"""What is left of A4 within the margins that the page sets for paper, in CSS pixels, and those."""

DASHBOARD: ViewportSize = {"width": 1280, "height": 1500}
CHARTS_HEIGHT, NOTE_HEIGHT = 1225, 440
STUDY = 8
"""Number of the study shown: shrink at m 256, with the largest gain."""

START_S, SETTLED_MS = 60, 5000


def tuned(folder: Path) -> None:
    """Tune the recordings, and write the report about it into a folder."""
    tune = ("tune", "--device", f"replay:{RECORDINGS.name}", "--json", SESSION)
    report = ("report", "--recordings", RECORDINGS.name, "--session", SESSION, "--out", REPORT)
    (folder / RECORDINGS.name).symlink_to(RECORDINGS)
    title = ("--title", "LoRA layers of Llama-3.1-8B, bundled H200 recordings")
    for words in (tune, (*report, *title)):
        subprocess.run(command(*words), cwd=folder, check=True, stdout=subprocess.DEVNULL)


def drawn(page: Page) -> None:
    """Wait until every chart of a report is there."""
    page.wait_for_function("document.querySelectorAll('svg, canvas').length > 0")
    page.wait_for_timeout(1000)


def save(page: Page, name: str, first: str | None, beyond: str, margin: int = 0) -> None:
    """Write a picture of a page from one section on, or from its top, to before another, in few colours."""
    viewport = page.viewport_size
    assert viewport is not None
    upper = top_of(page, first) if first else 0
    clip: FloatRect = {"x": 0, "y": upper, "width": viewport["width"], "height": top_of(page, beyond) - upper}
    image = Image.open(BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB")
    small(ImageOps.expand(image, margin, "white"), name)


def top_of(page: Page, section: str) -> float:
    """Return where a section of a report begins, in CSS pixels from the page's top."""
    box = page.locator(f"section[aria-labelledby={section}]").bounding_box()
    assert box is not None
    return box["y"]


def small(image: Image.Image, name: str) -> None:
    """Write a picture in few colours: a third of what a browser writes."""
    few = image.convert("RGB").quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(IMAGES / name, optimize=True)


def report_pictures(browser: Browser, address: str) -> None:
    """Draw the report: light and dark, down to one search; the top on a phone; and on paper its configs."""
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=scheme)
        page.goto(address)
        drawn(page)
        save(page, f"report-{scheme}.png", None, "configs")
    page = browser.new_page(viewport={"width": PHONE, "height": 800}, color_scheme="light")
    page.goto(address)
    drawn(page)
    page.locator(".first").first.evaluate(f"table => (table.closest('.scroll') || table).scrollLeft = {SCROLLED}")
    save(page, "report-phone.png", "configs", "mattered")
    page = browser.new_page(viewport={"width": A4_ACROSS[0], "height": A4_ACROSS[1]}, color_scheme="light")
    page.goto(address)
    drawn(page)
    page.emulate_media(media="print")
    save(page, "report-print.png", "configs", "mattered", A4_MARGIN)


def dashboard_picture(browser: Browser, folder: Path) -> None:
    """Draw optuna-dashboard: the parts of a study's page that tell most, and the note of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    words = [str(program), "--port", str(port), f"sqlite:///{DATABASE}"]
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        reached(f"{address}/api/meta")
        page = browser.new_page(viewport=DASHBOARD)
        page.goto(f"{address}/dashboard/studies/{STUDY}")
        page.wait_for_timeout(SETTLED_MS)
        charts = page.screenshot(clip={"x": 0, "y": 0, "width": DASHBOARD["width"], "height": CHARTS_HEIGHT})
        page.goto(f"{address}/dashboard/studies/{STUDY}/note")
        page.wait_for_timeout(SETTLED_MS)
        note = page.screenshot(clip={"x": 0, "y": 0, "width": DASHBOARD["width"], "height": NOTE_HEIGHT})
    finally:
        server.terminate()
        server.wait()
    above, below = (Image.open(BytesIO(one)).convert("RGB") for one in (charts, note))
    both = Image.new("RGB", (above.width, above.height + below.height))
    both.paste(above, (0, 0))
    both.paste(below, (0, above.height))
    small(both, "dashboard.png")


def reached(address: str) -> None:
    """Wait until a server answers."""
    ends = time.monotonic() + START_S
    while True:
        try:
            urlopen(address).close()
        except URLError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)
        else:
            return


def main() -> None:
    """Draw them all."""
    program = chromium()
    if program is None:
        sys.exit(MISSING)
    with tempfile.TemporaryDirectory() as name, running(program) as browser:
        folder = Path(name)
        tuned(folder)
        report_pictures(browser, (folder / REPORT).as_uri())
        dashboard_picture(browser, folder)


if __name__ == "__main__":
    main()
