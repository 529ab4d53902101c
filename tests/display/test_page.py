"""The report's page in a real browser: what it fetches, shows, sorts, and whether it can be read."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import browser as chromium
import pytest
from helpers import SHRINK, sliced, sqlite_url
from playwright.sync_api import Browser, Page
from reviewed import OWN, Reviewed, build

from bo_tune.analysis.review import Review, review
from bo_tune.analysis.review.against import against
from bo_tune.display.page import render
from bo_tune.display.page.page import FULL_COLOUR, depth
from bo_tune.measure.devices import replay_job
from bo_tune.session.session import Session, SessionSettings
from bo_tune.store.storage import StudyStore

pytestmark = pytest.mark.slow

TITLE = "Small <grids> & co"
STORAGE = "sqlite:///studies.db"
SCHEMES = ("light", "dark")

LEAST_CONTRAST = 4.5
"""Of text against what is behind it: level AA of the Web Content Accessibility Guidelines."""

CONTRASTS = """() => {
  const parse = text => {
    const numbers = text.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
    const [r, g, b] = text.startsWith("color(") ? numbers.map(x => 255 * x) : numbers;
    const alpha = text.startsWith("rgba") ? numbers[3] : 1;
    return {rgb: [r, g, b], alpha};
  };
  const light = ({rgb}) => {
    const [r, g, b] = rgb.map(x => x / 255).map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.alpha > 0) return colour;
    }
    throw "nothing behind";
  };
  const found = [];
  const texts = "h1, h2, h3, p, a, b, dt, dd, th, td, li, caption, figcaption, select, svg text";
  for (const element of document.querySelectorAll(texts)) {
    if (!element.textContent.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = light(parse(element instanceof SVGElement ? style.fill : style.color));
    const paper = light(behind(element));
    found.push([(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), element.outerHTML.slice(0, 120)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Reviewed:
    return build(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def found(reviewed: Reviewed) -> Review:
    return reviewed.review()


@pytest.fixture(scope="module")
def file(found: Review, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "report.html"
    versus = against(found, found, "sqlite:///other.db")
    path.write_text(render(found, title=TITLE, storage=STORAGE, against=versus, made=[("command", "bo-tune report")]))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium.chromium()
    if program is None:
        if chromium.in_ci():
            pytest.fail(chromium.MISSING)
        pytest.skip(chromium.MISSING)
    with chromium.running(program) as running:
        yield running


@dataclass
class Opened:
    """A page, with all it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


Open = Callable[..., Opened]


@pytest.fixture
def open_page(browser: Browser, file: Path) -> Iterator[Open]:
    """Opens the report; further arguments are of the browser's context."""
    contexts = []

    def opened(width: int = 1200, **more: object) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **more)
        contexts.append(context)
        result = Opened(context.new_page())
        result.page.on("request", lambda request: result.requests.append(request.url))
        result.page.on("console", lambda message: result.complaints.append(message.text))
        result.page.on("pageerror", lambda error: result.complaints.append(str(error)))
        result.page.goto(file.as_uri())
        if more.get("java_script_enabled", True):
            result.page.wait_for_selector("#detail svg")
            # The levels of the first case are drawn last.
            result.page.wait_for_function("document.getElementById('case-says').textContent !== ''")
        return result

    yield opened
    for context in contexts:
        context.close()


def _levels(page: Page) -> int:
    return page.locator("#detail svg .layer_0_marks line").count()


def _column(page: Page, table: str, heading: str) -> list[str]:
    names = [text.strip() for text in page.locator(f"{table} thead th").all_inner_texts()]
    # At once: a row read after another may have moved between.
    return page.locator(f"{table} tbody td:nth-child({names.index(heading) + 1})").all_inner_texts()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_fetched_and_nothing_is_wrong(open_page: Open, file: Path, scheme: str) -> None:
    opened = open_page(color_scheme=scheme)
    assert opened.requests == [file.as_uri()]
    assert opened.complaints == []
    assert opened.page.locator("h1").inner_text() == TITLE


def test_the_headline_says_what_was_found(open_page: Open, found: Review) -> None:
    text = open_page().page.locator(".tiles").inner_text()
    assert f"{found.speed_up:.2f}×" in text
    assert f"{found.effort.launched_configs:,}" in text
    assert f"{found.effort.launches:,}" in text


def test_without_javascript_everything_but_one_chart_is_there(open_page: Open, found: Review) -> None:
    page = open_page(java_script_enabled=False).page
    assert page.locator(".tiles dd").first.is_visible()
    studies = len(found.studies)
    assert page.locator("#configs ~ div table tbody tr").count() == studies + sum(case.joint for case in found.cases)
    assert page.locator("noscript").inner_text().startswith("This chart needs JavaScript")
    kernels = {case.first.name.problem.kernel for case in found.cases}
    assert page.locator("figure svg").count() == 2 * len(kernels) + 1  # by configs and by launches, and the noise


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_can_be_read(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme).page
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 300
    assert sum("<text" in what for _, what in contrasts) > 100
    poor = [(round(ratio, 2), what) for ratio, what in contrasts if ratio < LEAST_CONTRAST]
    assert poor == []


def test_light_and_dark_differ_and_a_switch_needs_no_reload(open_page: Open) -> None:
    page = open_page(color_scheme="light").page
    colours = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg text')).fill]"
    )
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colours)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True))


@pytest.mark.parametrize("width", [390, 768, 1600])
def test_nothing_is_wider_than_the_window(open_page: Open, width: int) -> None:
    page = open_page(width).page
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_heading_sorts_its_table_by_numbers(open_page: Open) -> None:
    page = open_page().page
    table = "[aria-label='Best configs of lora_shrink'] table"
    before = _column(page, table, "m")
    assert sorted(before, key=int) == ["16", "32", "4096"]
    heading = page.locator(f"{table} thead th", has_text="default us")
    heading.click()
    page.wait_for_selector(f"{table} th[aria-sort='descending']")
    descending = [float(value) for value in _column(page, table, "default us")]
    heading.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{table} th[aria-sort='ascending']")
    ascending = [float(value) for value in _column(page, table, "default us")]
    assert len(ascending) == 3
    assert descending == sorted(descending, reverse=True)
    assert ascending == sorted(ascending)


def test_a_search_is_chosen_from_the_list_or_a_cell(open_page: Open, found: Review) -> None:
    page = open_page().page
    first = page.locator("#case-says").inner_text()
    page.get_by_label("Problem:").select_option(label="max_loras 8, m 4096")
    second = page.locator("#case-says").inner_text()
    assert first != second
    assert "The grid's best takes" in second
    assert _levels(page) == 3
    page.get_by_label("Problem:").select_option(label="max_loras 4, m 32 *")
    assert "grid's best" not in page.locator("#case-says").inner_text()
    assert _levels(page) == 2
    (shrink,) = [c for c in found.cases if c.first.name.problem.label.startswith("L8.s1.m4096")]
    page.locator("[aria-label='Speed-up of lora_shrink'] a", has_text=f"{shrink.speed_up:.2f}").click()
    assert page.locator("#case-says").inner_text() == second
    assert _levels(page) == 3
    marks = page.locator("#detail svg .layer_2_marks path")
    assert marks.count() == len(shrink.first.trials)


def test_configs_are_counted_in_whole_numbers(open_page: Open) -> None:
    opened = open_page(width=1280)
    labels = opened.page.locator(
        "#detail svg [aria-label*='configs launched'] .role-axis-label text"
    ).all_text_contents()
    assert labels
    assert all(label.isdecimal() for label in labels), labels


def test_kernels_that_agree_show_their_sum(open_page: Open) -> None:
    page = open_page().page
    name = "fused_moe_lora: w13_shrink + w13_expand + w2_shrink + w2_expand"
    assert page.locator(f"[aria-label='Sums of {name}'] table tbody tr").count() == 1
    assert page.locator(f"[aria-label='Speed-up of {name}'] td a").count() == 1
    for kernel in ("w13_shrink", "w13_expand", "w2_shrink", "w2_expand"):
        assert page.locator(f"[aria-label='Best configs of fused_moe_lora_{kernel}'] tbody tr").count() == 1


def test_a_problem_without_m_has_a_table_and_no_heat_map(open_page: Open) -> None:
    page = open_page().page
    assert page.locator(f"[aria-label='Speed-up of {OWN.kernel}']").count() == 0
    row = page.locator(f"[aria-label='Best configs of {OWN.kernel}'] tbody tr")
    assert "rows=4096, columns=1000" in row.inner_text()
    assert "w4 block=2" in row.inner_text()


def test_headings_captions_and_labels_are_in_order(open_page: Open) -> None:
    page = open_page().page
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("document.querySelectorAll('table:not(:has(caption))').length") == 1, "the colours' legend"
    assert page.evaluate(
        "[...document.querySelectorAll('figure svg')].every(s => s.getAttribute('aria-label') || s.closest('#detail'))"
    )
    names = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(names) == len(set(names))
    targets = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
    )
    assert set(targets) <= set(names)


def test_what_a_database_holds_is_text(browser: Browser, found: Review, tmp_path: Path) -> None:
    """Databases and recordings come from others."""
    evil = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    (own,) = [case for case in found.cases if case.first.name.problem.kernel == OWN.kernel]
    name = replace(own.first.name, problem=replace(OWN, kernel=evil), gpu=evil, kernel_source=evil, conditions=evil)
    trials = [replace(trial, reason=evil, config={evil: 1}) for trial in own.first.trials]
    study = replace(own.first, name=name, trials=trials, reasons={evil: 1})
    pruned = {evil: 1}
    path = tmp_path / "evil.html"
    path.write_text(
        render(replace(found, cases=[replace(own, studies=[study])], pruned=pruned), title=evil, storage=evil)
    )
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_selector("#detail svg")
    assert page.title() == evil
    assert page.locator("img").count() == 0
    assert evil in page.locator("#pruned ~ div table").inner_text()
    assert complaints == []
    page.close()


def test_a_study_without_trials_makes_a_page_without_curves(browser: Browser, tmp_path: Path) -> None:
    store = StudyStore(sqlite_url(tmp_path / "x.db"))
    Session(store, SessionSettings()).opener.open(replay_job(sliced(SHRINK)))
    nothing = review(store)
    store.close()
    path = tmp_path / "empty.html"
    path.write_text(render(nothing, title=TITLE, storage=STORAGE))
    page = browser.new_page()
    page.goto(path.as_uri())
    assert "Nothing has been measured yet." in page.locator("main").inner_text()
    assert page.locator("script:not([type])").count() == 2
    page.close()


def test_the_page_names_no_other_place(file: Path) -> None:
    html = file.read_text()
    scripts = re.findall(r"<script>.*?</script>", html, re.DOTALL)
    rest = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert len(scripts) == 4
    assert not re.search(r"(src|href)=\"(?!#|data:,)", rest)
    assert not re.search(r"@import|url\(", rest)
    assert len(html) < 1.5e6, "the page's weight: most of it draws the charts"


@pytest.mark.parametrize(("speed_up", "deep"), [(None, 0), (1.0, 0), (FULL_COLOUR, 1), (2 * FULL_COLOUR, 1)])
def test_colours_deepen_with_the_speed_up(speed_up: float | None, deep: float) -> None:
    assert depth(speed_up) == deep


def test_slower_is_as_deep_as_faster() -> None:
    assert depth(1.5) == pytest.approx(depth(1 / 1.5))
    assert 0 < depth(1.5) < depth(2.0)


@pytest.mark.parametrize("width", [1280, 1800])
def test_no_table_is_clipped(open_page: Open, width: int) -> None:
    page = open_page(width).page
    wider = page.evaluate(
        """() => [...document.querySelectorAll('.scroll:has(table)')].filter(e => e.scrollWidth > e.clientWidth + 1)
            .map(e => e.getAttribute('aria-label'))"""
    )
    assert wider == []


def test_nothing_is_clipped_in_print(open_page: Open) -> None:
    """A4 across, but for its margins: 1,030 pixels."""
    page = open_page(1030).page
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1030
    wider = page.evaluate(
        """() => [...document.querySelectorAll('table, figure svg')].map(e => e.getBoundingClientRect().right)
            .filter(right => right > 1031)"""
    )
    assert wider == []
    assert not page.locator("nav").is_visible()


def test_on_a_phone_what_a_row_is_about_stays_in_sight(open_page: Open) -> None:
    page = open_page(400).page
    table = page.locator(".scroll:has(table.first)").first
    cell = table.locator("tbody td:first-child").first
    before = cell.bounding_box()
    table.evaluate("element => element.scrollLeft = 200")
    after = cell.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] == before["x"]
    assert after["width"] <= 160


def test_how_it_was_made_and_two_databases_are_told(open_page: Open, found: Review) -> None:
    page = open_page().page
    made = page.locator("section[aria-labelledby=made]").inner_text()
    assert "bo-tune report" in made
    assert all(study.name.kernel_source in made for study in found.studies)
    rows = page.locator("section[aria-labelledby=against] tbody tr")
    assert rows.count() == sum(study.result is not None for study in found.studies)
    assert "1.00×" in rows.first.inner_text()


def test_marks_say_what_they_are_without_javascript(open_page: Open) -> None:
    page = open_page(java_script_enabled=False).page
    titles = page.locator("figure svg path title").all_text_contents()
    assert any("configs launched" in title for title in titles)
    assert any("launches of the kernel" in title for title in titles)
    assert any("90th percentile" in title for title in titles)
