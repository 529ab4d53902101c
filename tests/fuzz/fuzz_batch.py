"""Runs commands on damaged inputs in this process, and writes what came of each: ``fuzz_batch.py FOLDER INPUTS``.

A program of its own, so that a limit on memory, an alarm or a crash is of this process alone. Faults are gathered, not
raised: one run names them all, and keeps the input of each.
"""

import gzip
import io
import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
import traceback
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NoReturn

import typer.main
from damages import FILES, HOSTILE, NUMBERS, TEXTS, Draw, as_json, as_toml, broken_bytes, documents, put, texts
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from specimens import (
    DATABASE,
    DOCUMENTS,
    FORGOTTEN,
    LOOK,
    MODEL_STUDY,
    OPTIONS,
    PACK,
    SHOW,
    STUDY,
    UNPACK,
    URLS,
    VARIABLES,
    WRITTEN,
    Command,
    Kind,
    furnish,
    placed,
)

from bo_tune.cli import main
from bo_tune.display.page import page
from bo_tune.display.page.drawing import Drawn
from bo_tune.errors import InputError
from bo_tune.formats.pack.archive import MANIFEST, unpack

DEADLINE_S = 60
"""Of one command, on a machine that is busy with other tests."""

MOST_MEMORY = 2**30
"""That a command may take beyond what the program has from the start."""

LARGEST_KEPT = 2**24
TABLES = {"study.toml": STUDY, "model.toml": MODEL_STUDY}
PACKS, STORED, LINE, SURROUNDINGS, PLACES = "pack", "database", "command line", "environment", "place to write"
KINDS = [*DOCUMENTS, *DOCUMENTS, PACKS, PACKS, *[STORED] * 3, *[LINE] * 3, SURROUNDINGS, PLACES, PLACES]


class Late(BaseException):
    """A command has not ended by its deadline. Nothing that handles errors may take it for one of its own."""


def _late(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Late


def run(arguments: Command) -> tuple[int, str, str]:
    """Run the command line in this process. Returns exit code, stdout and stderr, or raises what escaped it."""
    kept = sys.argv, sys.stdout, sys.stderr
    out, err = io.StringIO(), io.StringIO()
    sys.argv, sys.stdout, sys.stderr = ["bo-tune", *arguments], out, err
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(DEADLINE_S)
    code = 0
    try:
        if arguments[0] == UNPACK[0]:
            unpack(Path(arguments[1]), Path(arguments[2]))
        else:
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    except InputError as error:
        code = 2
        err.write(f"bo-tune: {error}\n")
    finally:
        signal.alarm(0)
        sys.argv, sys.stdout, sys.stderr = kept
    return code, out.getvalue(), err.getvalue()


def fault_of(code: int, out: str, err: str) -> str | None:
    """Say what is wrong with the way in which a command ended."""
    if code not in (0, 1, 2):
        return f"exit code {code}: {err[-400:]!r}"
    if "Traceback" in out + err:
        return f"a traceback: {(out + err)[-400:]!r}"
    if code == 2 and not (err.startswith("bo-tune: ") and err.count("\n") == 1 and err.endswith("\n")):
        return f"an exit of 2 with other than one line: {err[-400:]!r}"
    odd = next((one for one in out + err if not one.isprintable() and one != "\n"), None)
    return None if odd is None else f"{odd!r} reaches the terminal"


def tree(folder: Path) -> set[tuple[str, int, int]]:
    """Return all that lies below a folder but in ``out``, to see that nothing is changed or added.

    What SQLite keeps beside a database that it reads is its own.
    """
    paths = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "out"]
    stats = [(str(path), path.lstat()) for path in paths if not path.name.endswith(("-shm", "-wal"))]
    return {(path, stat.st_mode, stat.st_size) for path, stat in stats}


def damage(draw: Draw, folder: Path) -> tuple[str, Command, Mapping[str, str]]:
    """Damage something in a folder of specimens. Returns its kind, a command that meets it, and the environment."""
    kind = draw(st.sampled_from(KINDS))
    if kind in DOCUMENTS:
        return kind, _document(draw, folder / "in", DOCUMENTS[kind]), {}
    if kind == PACKS:
        _pack(draw, folder / "in" / PACK)
        return kind, UNPACK, {}
    if kind == STORED:
        _database(draw, folder / "in" / DATABASE)
        return kind, draw(st.sampled_from(LOOK)), {}
    if kind == SURROUNDINGS:
        value = _word(draw, st.sampled_from((*TEXTS, *map(str, NUMBERS))))
        return kind, draw(st.sampled_from((FORGOTTEN, SHOW))), {draw(st.sampled_from(VARIABLES)): value}
    if kind == LINE:
        command = draw(st.sampled_from(sorted(OPTIONS)))
        option = [f"--{draw(st.sampled_from(OPTIONS[command].split()))}"] if draw(st.integers(0, 5)) else []
        value = _word(draw, st.one_of(st.sampled_from((*TEXTS, *URLS, *map(str, NUMBERS[:10]))), HOSTILE))
        return kind, (*command, *option, value + draw(st.sampled_from(("", "", "", "\udcff")))), {}
    name, command = draw(st.sampled_from(WRITTEN))
    path = folder / "out" / name
    if not name:
        path.rmdir()
    put(path, draw(st.sampled_from(FILES)), b"{}")
    return kind, command, {}


def _word(draw: Draw, values: st.SearchStrategy[object]) -> str:
    """Draw what a shell can hand over: no NUL."""
    return str(draw(values)).replace("\0", "").encode("utf-8", "replace").decode()[:100_000]


def _document(draw: Draw, folder: Path, kind: Kind) -> Command:
    path = folder / kind.name
    good = path.read_bytes()
    path.unlink()
    how = draw(st.sampled_from(("value", "value", "value", "text", "text", "bytes", "file")))
    if how == "file":
        put(path, draw(st.sampled_from(FILES)), good)
        return draw(st.sampled_from(kind.commands))
    if how == "value":
        table = TABLES.get(kind.name)
        content = as_toml(draw(documents(table))) if table else as_json(draw(documents(json.loads(good))))
    else:
        content = draw(texts(good) if how == "text" else broken_bytes(good))
    if path.name.endswith(".t4.json") and draw(st.booleans()):
        content = gzip.compress(content, mtime=0)
        content = content if draw(st.integers(0, 3)) else draw(broken_bytes(content))
        path = path.with_name(f"{path.name}.gz")
    path.write_bytes(content)
    return draw(st.sampled_from(kind.commands))


def _pack(draw: Draw, path: Path) -> None:
    if draw(st.booleans()):
        _bytes_or_file(draw, path)
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[MANIFEST] = as_json(draw(documents(json.loads(members[MANIFEST]))))
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _bytes_or_file(draw: Draw, path: Path) -> None:
    good = path.read_bytes()
    if draw(st.booleans()):
        path.write_bytes(draw(broken_bytes(good)))
    else:
        put(path, draw(st.sampled_from(FILES)), good)


def _database(draw: Draw, path: Path) -> None:
    """Damage one value of one row, or the file."""
    if not draw(st.integers(0, 3)):
        _bytes_or_file(draw, path)
        return
    with closing(sqlite3.connect(path)) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        filled = [name for name in sorted(tables) if connection.execute(f"SELECT 1 FROM {name}").fetchone()]
        table = draw(st.sampled_from(filled))
        column = draw(st.sampled_from([row[1] for row in connection.execute(f"PRAGMA table_info({table})")]))
        row = draw(st.sampled_from([row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]))
        (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = {row}").fetchone()
        try:
            changed = as_json(draw(documents(json.loads(value)))).decode()
        except (TypeError, ValueError):
            changed = draw(st.sampled_from((None, -1, 2**40, 1e300, "", "x\x1b\n", "{", b"\xff", "9" * 400)))
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {row}", (changed,))
        except sqlite3.IntegrityError:
            connection.execute(f"DELETE FROM {table} WHERE rowid = {row}")


class Batch:
    """Damages inputs and keeps in mind what came of them."""

    def __init__(self, folder: Path) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.faults: list[str] = []
        self._folder, self._good, self._here = folder, folder / "good", folder / "here"
        self._good.mkdir(parents=True)
        furnish(self._good, run)
        for kind in DOCUMENTS.values():  # what is refused undamaged would show nothing
            for command in kind.commands:
                ended = run(placed(command, {"in": self._good, "out": folder / "tried"}))
                assert ended[0] in (0, 1), (command, ended)

    def try_one(self, draw: Draw) -> None:
        """Damage one input, and run a command that meets it."""
        shutil.rmtree(self._here, ignore_errors=True)
        shutil.copytree(self._good, self._here / "in")
        for name in ("out", "cwd"):
            (self._here / name).mkdir()
        os.chdir(self._here / "cwd")
        kind, command, environment = damage(draw, self._here)
        arguments = placed(command, {name: self._here / name for name in ("in", "out")})
        (self._folder / "now").write_text(repr((kind, arguments, environment)))
        before, kept = tree(self._here), dict(os.environ)
        os.environ.update(environment)
        try:
            ended, fault = self._ended(arguments)
        finally:
            os.environ.clear()
            os.environ.update(kept)
        changed = sorted(tree(self._here) ^ before)
        wanted = kind == LINE or (kind == STORED and arguments[0] == "tune")  # paths and a database to write to
        if fault is None and changed and not wanted:
            ended, fault = "fault", f"changed outside of its place: {changed[:3]}"
        self.counts[kind][ended] += 1
        if fault is not None:
            place = self._keep()
            self.faults.append(f"{kind}: {fault}\n  {[one[:300] for one in arguments]} {environment}; input: {place}")
            sys.stderr.write(f"{self.faults[-1]}\n".encode("utf-8", "backslashreplace").decode())

    @staticmethod
    def _ended(arguments: Command) -> tuple[str, str | None]:
        try:
            ended = run(arguments)
        except Late:
            return "hang", "no end"
        except BaseException as error:  # noqa: BLE001 - that any escapes is the fault
            own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/bo_tune/" in frame.filename]
            place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "here"
            return "traceback", f"{type(error).__name__} at {place}: {str(error)[:300]}"
        fault = fault_of(*ended)
        return str(ended[0]) if fault is None else "fault", fault

    def _keep(self) -> Path:
        """Copy the input of a fault, but for what is no file or a huge one."""
        place = self._folder / "faults" / str(len(self.faults))
        for path in (self._here / "in").rglob("*"):
            if path.is_file() and path.stat().st_size < LARGEST_KEPT:
                kept = place / path.relative_to(self._here / "in")
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, kept)
        return place


def make_once() -> None:
    """Make the parser but once, and no charts: both are the same for each command, and take most of their time."""
    typer.main.get_command = cache(typer.main.get_command)
    page.draw = lambda specs: Drawn(["<svg/>"] * len(specs), "")


def limit_memory() -> None:
    """Let this process have no more than ``MOST_MEMORY`` beyond what it has; charts reserve addresses."""
    status = Path("/proc/self/status").read_text()
    taken = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MOST_MEMORY, resource.RLIM_INFINITY))


def main_of_batch(folder: Path, inputs: int, *, anew: bool) -> None:
    """Try so many inputs, the same ones each time unless ``anew``, and write ``result.json``."""
    make_once()
    batch = Batch(folder)
    limit_memory()

    @settings(
        max_examples=inputs,
        phases=[Phase.generate],
        deadline=None,
        derandomize=not anew,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def tried(data: st.DataObject) -> None:
        batch.try_one(data.draw)

    tried()
    (folder / "result.json").write_text(json.dumps({"counts": batch.counts, "faults": batch.faults}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main_of_batch(Path(sys.argv[1]).resolve(), int(sys.argv[2]), anew="BO_TUNE_FUZZ" in os.environ)
