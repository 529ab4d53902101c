"""Hypothesis strategies that damage what a command reads: a value of a document, its text, its bytes, the file itself."""

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
TEXTS = (
    "", " ", ".", "..", "../../escaped", "/proc/escaped", "a\0b", "a\nb", "\x1b[31mred\x1b[0m", "[/red]", "[bold]", ":smile:",
    "\ud800", "\u202eabc", "a|b", "é", "中" * 90, "%s {} {0}", "'; --", "NaN", "1e5", "-1", "x" * 300, "x" * 100_000,
    "2**31", "true", "null", "(" * 200, "(a+)+$", "all-linear", "lora_shrink", "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59",
)  # fmt: skip
TOKENS = (
    "1e999",
    "-1e999",
    "1e-400",
    "9" * 5000,
    "1" + "0" * 400,
    "NaN",
    "-Infinity",
    "01",
    "0x10",
    "1_000",
    "-0",
    "+5",
    "",
)


def _nested(depth: int, inner: object = 0) -> object:
    for level in range(depth):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


CONTAINERS = (None, True, False, [], {}, [[]], [None], {"a": 1}, {"": {}}, [0] * 10_000, list(range(300)))
HOSTILE = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(CONTAINERS),
    st.sampled_from((50, 70, 400)).map(_nested),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)


@st.composite
def documents(draw: Draw, good: Any) -> Any:
    """A parsed document with one to three of its values damaged."""
    document = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        owner, key = _place(draw, document)
        if owner is None:
            return draw(HOSTILE)
        what = draw(st.sampled_from(("replace", "replace", "replace", "drop", "add", "double", "move")))
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
    """Choose a value by who holds it and under what key; neither for the document itself."""
    owner, key, value = None, None, document
    while isinstance(value, dict | list) and value and (owner is None or draw(st.integers(0, 4))):
        if owner is None and draw(st.integers(0, 19)) == 19:
            break
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        owner, key = value, draw(st.sampled_from(keys))
        value = owner[key]
    return owner, key


def as_json(document: Any) -> bytes:
    """JSON with the numbers that Python adds to it, and with half characters as they come."""
    return json.dumps(document).encode()


def as_toml(document: Any) -> bytes:
    """TOML of the tables of a study file, as far as TOML can say it; else what is not TOML."""
    lines = []
    items = document.items() if isinstance(document, dict) else [("x", document)]
    for key, value in items:
        if isinstance(value, dict):
            lines += [f"[{_key(key)}]", *(f"{_key(name)} = {_value(one)}" for name, one in value.items())]
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            for table in value:
                lines += [f"[[{_key(key)}]]", *(f"{_key(name)} = {_value(one)}" for name, one in table.items())]
        else:
            lines.insert(0, f"{_key(key)} = {_value(value)}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


@st.composite
def texts(draw: Draw, good: bytes) -> bytes:
    """A text with a number, a key or its encoding damaged."""
    text = good.decode("utf-8", "surrogatepass")
    what = draw(st.sampled_from(("number", "number", "twice", "deep", "utf-16", "bom", "utf-32", "latin-1", "nul")))
    if what == "number" and (numbers := list(re.finditer(r"(?<![\w.\"])-?\d+(\.\d+)?", text))):
        found = draw(st.sampled_from(numbers))
        return (text[: found.start()] + draw(st.sampled_from(TOKENS)) + text[found.end() :]).encode()
    if what == "twice" and (keys := list(re.finditer(r'"[\w ]*": ', text))):
        found = draw(st.sampled_from(keys))
        return (text[: found.start()] + found[0] + "1, " + text[found.start() :]).encode()
    if what == "deep":
        depth, opening = (
            draw(st.sampled_from((100, 1000, 100_000))),
            draw(st.sampled_from(('{"a":', "[", "a = [[", "a."))),
        )
        return (opening * depth + text).encode()
    if what == "nul":
        return good.replace(b" ", b"\0", 1)
    if what == "bom":
        return b"\xef\xbb\xbf" + good
    return text.encode(what, "replace") if what[:3] in ("utf", "lat") else good


@st.composite
def broken_bytes(draw: Draw, good: bytes) -> bytes:
    """Bytes cut, flipped, doubled, or none at all."""
    what = draw(st.sampled_from(("cut", "cut", "flip", "flip", "flip", "empty", "twice", "noise")))
    if what == "cut":
        return good[: draw(st.integers(0, len(good)))]
    if what == "flip":
        content = bytearray(good)
        for _ in range(draw(st.integers(1, 8))):
            content[draw(st.integers(0, len(good) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(content)
    return {"empty": b"", "twice": good * 2}.get(what) or draw(st.binary(max_size=64)) * (what == "noise")


FILES = ("folder", "pipe", "dangling", "loop", "zero", "full", "missing", "huge", "link", "socket", "file")
"""What may stand where a file is expected."""


def put(path: Path, what: str, good: bytes) -> None:
    """Put something in a file's place."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what in ("dangling", "loop", "zero", "full"):
        target = {"dangling": "nowhere", "loop": path.name, "zero": "/dev/zero", "full": "/dev/full"}[what]
        path.symlink_to(target)
    elif what == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif what == "link":
        path.with_name("behind").write_bytes(good)
        path.symlink_to("behind")
    elif what == "file":
        path.write_bytes(b"text\n")
    elif what == "socket":
        os.mknod(path, 0o140600)
