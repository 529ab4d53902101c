"""Links of the documentation lead somewhere, images exist, and every page can be reached from the README."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers import ROOT
from pages import anchors, inline, pages, targets

LARGEST_IMAGE = 200 * 1024
FOR_CONTRIBUTORS = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]


@pytest.mark.parametrize("page", [*pages(), *FOR_CONTRIBUTORS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def test_every_page_and_image_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        if page.suffix == ".md":
            found = {(page.parent / target.partition("#")[0]).resolve() for target in targets(page)}
            ahead += [file for file in found - reached if file.is_file()]
    assert not set(pages()) - reached
    images = {file for file in (ROOT / "docs" / "images").rglob("*") if file.is_file()}
    assert not images - reached
    assert not [image for image in images if image.stat().st_size > LARGEST_IMAGE]


def test_contributors_are_shown_files_that_exist() -> None:
    words = [token.content for token in inline(ROOT / "CONTRIBUTING.md", "code_inline")]
    paths = [word for word in words if re.fullmatch(r"[a-z_]+(/[a-z_]+)+(\.py)?", word)]
    assert len(paths) > 12
    assert not [path for path in paths if not (ROOT / path).exists() and not (ROOT / "bo_tune" / path).exists()]
