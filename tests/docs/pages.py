"""The pages of the documentation, as what can be checked: fenced blocks, links, images, anchors.

A block says in an HTML comment just before it what its reader cannot see (``<!-- needs: gpu -->``):

========  ==========================================================================================================
``needs``   why it is not run here, one of ``NEEDS``; its commands are parsed all the same
``exit``    the exit code of its last command, where that is not 0
``file``    the file that it is the content of, for the commands after it; ``# path`` as its first line says the same
``says``    whose messages it quotes, where not the program's own: ``vllm``
========  ==========================================================================================================
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from helpers import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token

NEEDS = {
    "gpu": "an NVIDIA GPU",
    "vllm": "vLLM, and a GPU to serve on",
    "network": "packages or repositories from the network",
    "database": "a database server",
    "ray": "a Ray cluster",
    "browser": "someone who looks at it",
    "minutes": "minutes",
}
"""What a block may need that a test has not."""

LANGUAGES = ("bash", "console", "json", "python", "text", "toml", "yaml", "")
"""Languages of blocks. One of ``yaml`` is a part of a file. Those of ``text`` and of none are not run; their lines that
begin with bo-tune are parsed."""

_MARKERS = re.compile(r"<!--\s*(\w+):\s*(.*?)\s*-->")
_FILE_COMMENT = re.compile(r"# ([\w./-]+\.(?:toml|py))\s*$")
_NOT_IN_SLUGS = re.compile(r"[^\w\- ]")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its first line of content, from 0.
        indent: what its lines begin with, in a list.
    """

    page: Path
    line: int
    language: str
    text: str
    markers: Mapping[str, str] = field(default_factory=dict)
    indent: str = ""

    @property
    def place(self) -> str:
        """Page and line, as editors take them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that the block is the content of, if it says so."""
        named = _FILE_COMMENT.match(self.text.partition("\n")[0])
        return self.markers.get("file") or (named[1] if named else None)


@cache
def tokens(page: Path) -> tuple[Token, ...]:
    """Parse a page."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(page.read_text()))


def pages() -> list[Path]:
    """Return the pages of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page in order."""
    markers: dict[str, str] = {}
    lines = page.read_text().splitlines()
    for token in tokens(page):
        if token.type == "fence":
            assert token.map is not None
            opening = lines[token.map[0]]
            indent = opening[: len(opening) - len(opening.lstrip())]
            language = token.info.split()[0] if token.info.strip() else ""
            yield Block(page, token.map[0] + 1, language, token.content, markers, indent)
        if token.type == "html_block":
            markers = dict(_MARKERS.findall(token.content))
        elif token.type not in ("list_item_close", "paragraph_close"):
            markers = {}


def inline(page: Path, kind: str) -> Iterator[Token]:
    """Yield the tokens of a kind in the running text of a page: ``code_inline``, ``link_open``, ``image``."""
    for token in tokens(page):
        yield from (child for child in token.children or () if child.type == kind)


def targets(page: Path) -> Iterator[str]:
    """Yield what the links and images of a page point to, inside the repository."""
    links = [str(token.attrs["href"]) for token in inline(page, "link_open")]
    images = [str(token.attrs["src"]) for token in inline(page, "image")]
    html = "".join(
        child.content for token in tokens(page) for child in (token, *(token.children or ())) if "html" in child.type
    )
    for target in [*links, *images, *re.findall(r'(?:src|srcset|href)="([^"]+)"', html)]:
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for opening, heading in pairwise(tokens(page)):
        if opening.type != "heading_open":
            continue
        words = "".join(child.content for child in heading.children or () if child.type in ("text", "code_inline"))
        slug = _NOT_IN_SLUGS.sub("", words.lower()).replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    return {name if index == 0 else f"{name}-{index}" for name, count in found.items() for index in range(count)}
