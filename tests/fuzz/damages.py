"""Hypothesis strategies that damage what is read: a value of a document, its text, its bytes, the file itself."""

import copy
import json
import os
import re
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS = (0, -1, 1, 2, 3, 17, 2**31 - 1, 2**31, 2**63, 10**20, 10**400, 1e-320, 1e-3, 0.5, 1e308, -1e308, inf, nan)
NAMES = (
    "",
    " ",
    ".",
    "..",
    "../../escaped",
    "/proc/escaped",
    "a\0b",
    "a\nb",
    "\x1b[31mred\x1b[0m",
    "a|b",
    "é",
    "中" * 90,
)
WORDS = (
    "[/red]",
    "[bold]",
    ":smile:",
    "\ud800",
    "\u202eabc",
    "%s {} {0}",
    "'; --",
    "x" * 300,
    "x" * 100_000,
    "(" * 200,
)
LOOKALIKES = ("NaN", "1e5", "-1", "2**31", "true", "(a+)+$", "all-linear", "lora_shrink", "0001-01-01T00:00:00+23:59")
TEXTS = (*NAMES, *WORDS, *LOOKALIKES)
TOKENS = ("1e999", "-1e999", "1e-400", "9" * 5000, "1" + "0" * 400, "NaN", "-Infinity", "01", "0x10", "1_000", "-0", "")
"""What may stand in a text in a number's place."""
CONTAINERS = (None, True, False, [], {}, [[]], [None], {"a": 1}, {"": {}}, [0] * 10_000, list(range(300)))


def _nested(depth: int) -> object:
    value: object = 0
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


HOSTILE = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(CONTAINERS).map(copy.deepcopy),  # what is drawn may be damaged in turn
    st.sampled_from((50, 70, 400)).map(_nested),
    st.integers(),
    st.floats(),
    st.text(st.sampled_from("aZ0_-./\\\"' \n\t\0\x1b[]|{}%é中\ud800\U0001f600"), max_size=20),
)
"""Values that no field expects."""


@st.composite
def documents(draw: Draw, good: Any) -> Any:
    """A parsed document with one to three of its values damaged."""
    document = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        owner, key = _place(draw, document)
        if owner is None:
            return draw(HOSTILE)
        what = draw(st.sampled_from(("replace", "replace", "replace", "drop", "add", "double")))
        if what == "replace":
            owner[key] = draw(HOSTILE)
        elif what == "drop":
            del owner[key]
        elif isinstance(owner, dict):
            owner[draw(st.sampled_from(TEXTS))] = draw(HOSTILE) if what == "add" else owner[key]
        else:
            owner.append(draw(HOSTILE) if what == "add" else owner[key])
    return document


def _place(draw: Draw, document: Any) -> tuple[Any, Any]:
    """Choose a value by who holds it and under what key; now and then the document itself, by neither."""
    owner, key, value = None, None, document
    while isinstance(value, dict | list) and value and draw(st.integers(0, 19 if owner is None else 4)):
        owner = value
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        value = owner[key]
    return owner, key


def as_json(document: Any) -> bytes:
    """Return JSON with the numbers that Python adds to it."""
    return json.dumps(document).encode()


def as_toml(document: Any) -> bytes:
    """Return TOML of a study file's tables, as far as TOML can say what they hold; else what is not TOML."""
    lines: list[str] = []
    for key, value in document.items() if isinstance(document, dict) else [("x", document)]:
        if isinstance(value, dict):
            lines += [f"[{_key(key)}]", *_pairs(value)]
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for table in value:
                lines += [f"[[{_key(key)}]]", *_pairs(table)]
        else:
            lines[:0] = _pairs({key: value})
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in table.items()]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(_pairs(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


@st.composite
def texts(draw: Draw, good: bytes) -> bytes:
    """A text with a number, a key, its nesting or its encoding damaged."""
    text = good.decode()
    what = draw(st.sampled_from(("number", "number", "twice", "deep", "utf-16", "utf-32", "bom", "nul")))
    if what == "number" and (numbers := list(re.finditer(r"(?<![\w.\"])-?\d+(\.\d+)?", text))):
        found = draw(st.sampled_from(numbers))
        return (text[: found.start()] + draw(st.sampled_from(TOKENS)) + text[found.end() :]).encode()
    if what == "twice" and (keys := list(re.finditer(r'"[\w ]*": ', text))):
        found = draw(st.sampled_from(keys))
        return (text[: found.start()] + found[0] + "1, " + text[found.start() :]).encode()
    if what == "deep":
        opening = draw(st.sampled_from(('{"a":', "[", "a = [[", "a.")))
        return (opening * draw(st.sampled_from((100, 1000, 100_000))) + text).encode()
    if what == "nul":
        return good.replace(b" ", b"\0", 1)
    return text.encode(what) if what.startswith("utf") else b"\xef\xbb\xbf" + good


@st.composite
def broken_bytes(draw: Draw, good: bytes) -> bytes:
    """Bytes cut, flipped, doubled, replaced, or none at all."""
    what = draw(st.sampled_from(("cut", "cut", "flip", "flip", "flip", "twice", "other")))
    if what == "cut":
        return good[: draw(st.integers(0, len(good)))]
    if what == "flip":
        content = bytearray(good)
        for _ in range(draw(st.integers(1, 8))):
            content[draw(st.integers(0, len(good) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    return good * 2 if what == "twice" else draw(st.binary(max_size=64))


FILES = ("folder", "pipe", "dangling", "loop", "zero", "full", "missing", "huge", "link", "socket", "other")
"""What may stand where a file is expected."""

LINKS = {"dangling": "nowhere", "loop": "itself", "zero": "/dev/zero", "full": "/dev/full", "link": "behind"}


def put(path: Path, what: str, good: bytes) -> None:
    """Put one of ``FILES`` in a file's place."""
    path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what in LINKS:
        path.symlink_to(path.name if what == "loop" else LINKS[what])
        if what == "link":
            path.with_name("behind").write_bytes(good)
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(2**36)
    elif what == "socket":
        os.mknod(path, 0o140600)
    elif what == "other":
        path.write_bytes(b"text\n")
