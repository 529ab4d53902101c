"""Runs commands on damaged inputs in this process, and writes what came of each: ``fuzz_batch.py FOLDER INPUTS``.

A program of its own, so that a limit on memory, an alarm or a crash is of this process alone.
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
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from damages import FILES, HOSTILE, NUMBERS, TEXTS, as_json, as_toml, broken_bytes, documents, put, texts
from helpers import ROOT, SHRINK, SHRINK_TABLE, sliced, write_all
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pack_samples import ENTRY, binary, cache_folder, failure, manifest
from pack_samples import FILES as PACKED

from bo_tune.cli import main
from bo_tune.errors import InputError
from bo_tune.pack.archive import MANIFEST, unpack, write_pack

DEADLINE_S = 20
"""Of one command, on a machine that is busy with other tests."""

MOST_MEMORY = 2**30
"""That a command may take beyond what the program has from the start."""

STUDY = {
    "name": "fuzzed",
    "kernels": ["lora_shrink"],
    "budget": {"launched_configs": 2, "finalists": 1},
    "search": {"sampler": "random", "seed": 1, "stop": True, "tolerance": 0.01, "risk": 0.1},
    "space": {"lora_shrink": {"block_m": [16, 64], "num_stages": [2, 5]}},
    "problem": [
        {"kernel": "lora_shrink", "max_loras": 4, "num_slices": 1, "m": [16], "k": 4096, "n": 16, "dtype": "bfloat16"}
    ],
}
MODEL_STUDY = {
    "model": {"config": "config.json", "m": [16], "ranks": [16], "max_loras": 4, "adapter": "adapter_config.json"},
    "search": {"sampler": "random"},
}
ADAPTER = {
    "r": 16, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 8}, "bias": "none",
    "layers_to_transform": [0, 1], "layers_pattern": "layers", "exclude_modules": None, "modules_to_save": None,
}  # fmt: skip
SMALL = {
    "block_m": (16, 64),
    "block_n": (32,),
    "block_k": (256,),
    "num_warps": (4, 8),
    "num_stages": (2, 5),
    "split_k": (8,),
}
RECORDING = "recordings/h100.lora_shrink.L4.s1.m16.k4096.n16.t4.json"
TABLE = f"tuned/{SHRINK_TABLE}"
TUNE = (
    "tune",
    "--device",
    "replay:{in}/recordings",
    "--budget",
    "2",
    "--sampler",
    "random",
    "--no-bundled",
    "--out",
    "{out}",
)
KEPT = (*TUNE, "--storage", "memory")
SERVED = ("--max-loras", "4", "--rank", "16", "--m", "16")
CHECK = ("check", "{in}/tuned", "--max-loras", "4", "--rank", "16", "--gpu", "NVIDIA H100 80GB HBM3", "--model")
IMPORT = ("import", "{in}/exported", "--storage", "sqlite:///{out}/x.db")
DATABASE = ("--storage", "sqlite:///{in}/x.db")

Command = tuple[str, ...]

DOCUMENTS: Mapping[str, tuple[str, tuple[Command, ...]]] = {
    "study file": ("study.toml", ((*KEPT, "{in}/study.toml"),)),
    "study file of a model": ("model.toml", ((*KEPT, "{in}/model.toml"),)),
    "model config": ("config.json", ((*KEPT, *SERVED, "--model", "{in}/config.json"), (*CHECK, "{in}/config.json"))),
    "model config with experts": ("experts.json", ((*CHECK, "{in}/experts.json"),)),
    "adapter config": (
        "adapter_config.json",
        ((*KEPT, *SERVED, "--model", "{in}/config.json", "--adapter", "{in}/adapter_config.json"),),
    ),
    "tuned JSON": (
        TABLE,
        ((*CHECK, "{in}/config.json"), ("compare", "{in}/tuned", "{in}/grid"), ("merge", "{in}/tuned", "{in}/grid", "--out", "{out}")),
    ),
    "sidecar": (
        TABLE.replace(".json", ".provenance.json"),
        (("compare", "{in}/tuned", "{in}/grid"), ("merge", "{in}/tuned", "{in}/grid", "--out", "{out}"), (*CHECK, "{in}/config.json")),
    ),
    "recording": (
        RECORDING,
        (
            ("simulate", "--recordings", "{in}/recordings", "--sampler", "random", "--budget", "2", "--no-bundled"),
            KEPT,
            ("compare", "{in}/tuned", "{in}/grid", "--recordings", "{in}/recordings"),
        ),
    ),
    "export": ("exported/x.t4.json", (IMPORT,)),
    "session figures": ("session.json", (("report", *DATABASE, "--out", "{out}/x.html", "--session", "{in}/session.json"),)),
    "hits of experts": ("hits.json", ((*KEPT, "--experts", "{in}/hits.json"),)),
}  # fmt: skip
LOOK: tuple[Command, ...] = (
    ("show", *DATABASE), ("show", "lora_shrink", *DATABASE), ("export", *DATABASE, "--out", "{out}"),
    ("tune", *TUNE[1:], "--storage", "sqlite:///{in}/x.db"),
)  # fmt: skip
OPTIONS: Mapping[Command, tuple[str, ...]] = {
    (*KEPT,): ("--budget", "--seed", "--sampler", "--kernel", "--m", "--lease", "--jobs", "--device", "--timing", "--gpus", "--storage", "--out", "--json", "--experts", "--active-loras"),
    (*KEPT, *SERVED, "--model", "{in}/config.json"): ("--tp", "--max-loras", "--rank", "--m", "--target-modules", "--adapter", "--max-num-seqs", "--model"),
    (*CHECK, "{in}/config.json"): ("--max-loras", "--rank", "--tp", "--gpu", "--max-num-seqs", "--target-modules", "--json"),
    ("simulate", "--recordings", "{in}/recordings", "--sampler", "random", "--budget", "2", "--no-bundled"): ("--recordings", "--history", "--sampler", "--json"),
    ("show", *DATABASE): ("--storage", "--json", ""),
    ("export", *DATABASE, "--out", "{out}"): ("--out", "--kernel", "--gpu", "--storage"),
    IMPORT: ("--storage", ""),
    ("merge", "{in}/tuned", "--out", "{out}"): ("--out", ""),
    ("delete", "no such study", *DATABASE): ("--storage", ""),
    ("compare", "{in}/tuned", "{in}/grid"): ("--recordings", "--json"),
}  # fmt: skip
URLS = (
    "sqlite:///{out}",
    "sqlite://",
    "sqlite:///{in}/pipe",
    "sqlite:///{in}/study.toml",
    "mysql://",
    "x://y",
    "postgresql+psycopg://u:secret@127.0.0.1:1/x",
    "sqlite:///{out}/a\x1bb.db",
    "sqlite:////nowhere/x.db",
    "http://[::1",
    "replay:{out}",
    "replay:",
    "cuda:0",
    "{in}/pipe",
    "{in}/x.db",
)
VARIABLES = (
    "COLUMNS",
    "LINES",
    "TERM",
    "FORCE_COLOR",
    "NO_COLOR",
    "TZ",
    "LANG",
    "TRITON_CACHE_DIR",
    "TMPDIR",
    "HOME",
    "OMP_NUM_THREADS",
)


class Late(BaseException):
    """A command has not ended by its deadline. Nothing that handles errors may take it for one of its own."""


class Ended(BaseException):
    """A command has exited."""


def _late(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Late


def run(arguments: tuple[str, ...]) -> tuple[int, str, str]:
    """Run the command line in this process. Returns its exit code, or raises what escaped it."""
    kept = sys.argv, sys.stdout, sys.stderr
    out, err = io.StringIO(), io.StringIO()
    sys.argv, sys.stdout, sys.stderr = ["bo-tune", *arguments], out, err
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(DEADLINE_S)
    try:
        if arguments[0] == "unpack":  # what tune --pack does first, without the GPU that it needs
            unpack(Path(arguments[1]), Path(arguments[2]))
        else:
            main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except InputError as error:
        assert arguments[0] == "unpack"
        code = 2
        err.write(f"bo-tune: {error}\n")
    finally:
        signal.alarm(0)
        sys.argv, sys.stdout, sys.stderr = kept
    return code, out.getvalue(), err.getvalue()


def fault_of(code: int, out: str, err: str) -> str | None:
    """Say what is wrong with the way in which a command ended."""
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "Traceback" in out + err:
        return f"a traceback: {(out + err)[-400:]}"
    if code == 2 and not (err.startswith("bo-tune: ") and err.count("\n") == 1 and err.endswith("\n")):
        return f"an exit of 2 with other than one line: {err[-400:]!r}"
    odd = next((one for one in out + err if not one.isprintable() and one != "\n"), None)
    return None if odd is None else f"{odd!r} reaches the terminal"


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return all that lies below a folder but in ``out``, to see that nothing is changed or added."""
    found = {}
    for path in folder.rglob("*"):
        if "out" not in path.relative_to(folder).parts[:1]:
            stat = path.lstat()
            found[str(path)] = stat.st_mode, stat.st_size if path.is_file() else 0
    return found


def furnish(good: Path) -> None:
    """Write a valid specimen of each kind of input."""
    (good / "study.toml").write_bytes(as_toml(STUDY))
    (good / "model.toml").write_bytes(as_toml(MODEL_STUDY))
    models = ROOT / "studies" / "models"
    shutil.copy(models / "llama-3.1-8b" / "config.json", good / "config.json")
    shutil.copy(models / "qwen3-30b-a3b" / "config.json", good / "experts.json")
    (good / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (good / "hits.json").write_text("[1, 2, 3, 0]")
    write_all(good / "recordings", replace(sliced(SHRINK, **SMALL), path=Path(Path(RECORDING).name)))
    places = {"in": good, "out": good / "tuned"}
    database = ("--storage", f"sqlite:///{good}/x.db", "--json", f"{good}/session.json")
    for arguments in (
        (*TUNE, *database),
        (*KEPT, "--out", "{in}/grid"),
        ("export", *DATABASE, "--out", "{in}/exported"),
    ):
        ended = run(tuple(one.format_map(places) for one in arguments))
        assert ended[0] == 0, ended
    (exported,) = (good / "exported").iterdir()
    (good / "exported" / "x.t4.json").write_bytes(gzip.decompress(exported.read_bytes()))
    exported.unlink()
    cache = cache_folder(good / "cache", **{ENTRY: PACKED})
    write_pack(good / "x.pack", manifest(binary(), failure()), cache)
    shutil.rmtree(cache)


def written(content: bytes, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


class Batch:
    """Damages inputs and keeps in mind what came of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.good, self.here = folder, folder / "good", folder / "here"
        self.counts: dict[str, dict[str, int]] = {}
        self.faults: list[str] = []
        self.good.mkdir()
        furnish(self.good)
        self.documents = {name: self._parsed(name) for name in {name for name, _ in DOCUMENTS.values()}}

    def _parsed(self, name: str) -> Any:
        tables = {"study.toml": STUDY, "model.toml": MODEL_STUDY}
        return tables.get(name) or json.loads((self.good / name).read_bytes())

    def one(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        """Damage one input, and run a command that reads it."""
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.good, self.here / "in")
        for name in ("out", "cwd"):
            (self.here / name).mkdir()
        os.chdir(self.here / "cwd")
        kinds = [*DOCUMENTS] * 2 + [
            "pack",
            "pack",
            "database",
            "database",
            "command line",
            "command line",
            "environment",
            "a place to write",
        ]
        kind = draw(st.sampled_from(kinds))
        environment: dict[str, str] = {}
        if kind in DOCUMENTS:
            command = self._document(draw, *DOCUMENTS[kind])
        else:
            makers = {
                "pack": self._pack,
                "database": self._database,
                "command line": self._options,
                "a place to write": self._place,
            }
            if kind == "environment":
                environment = {
                    draw(st.sampled_from(VARIABLES)): draw(st.sampled_from([*TEXTS, *map(str, NUMBERS)]))
                    .replace("\0", "")
                    .encode("utf-8", "replace")
                    .decode()
                }
                command = draw(st.sampled_from((KEPT, LOOK[0])))
            else:
                command = makers[kind](draw)
        places = {"in": str(self.here / "in"), "out": str(self.here / "out")}
        arguments = tuple(one.replace("{in}", places["in"]).replace("{out}", places["out"]) for one in command)
        self._judge(kind, arguments, environment)

    def _document(
        self, draw: Callable[[st.SearchStrategy[Any]], Any], name: str, commands: tuple[Command, ...]
    ) -> Command:
        path = self.here / "in" / name
        good = path.read_bytes()
        how = draw(st.sampled_from(("value", "value", "value", "text", "text", "bytes", "file")))
        if how == "value":
            document = draw(documents(self.documents[name]))
            written(as_toml(document) if name.endswith("toml") else as_json(document), path)
        elif how == "text":
            written(draw(texts(good)), path)
        elif how == "bytes":
            written(draw(broken_bytes(good)), path)
        else:
            put(path, draw(st.sampled_from(FILES)), good)
        if (
            path.name.endswith("t4.json")
            and path.is_file()
            and not path.is_symlink()
            and path.stat().st_size < 2**24
            and draw(st.booleans())
        ):
            packed = gzip.compress(path.read_bytes(), mtime=0)
            path.with_name(path.name + ".gz").write_bytes(
                draw(broken_bytes(packed)) if draw(st.integers(0, 3)) == 3 else packed
            )
            path.unlink()
        return draw(st.sampled_from(commands))

    def _pack(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Command:
        path = self.here / "in" / "x.pack"
        how = draw(st.sampled_from(("manifest", "manifest", "bytes", "file")))
        if how == "manifest":
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            members[MANIFEST] = as_json(draw(documents(json.loads(members[MANIFEST]))))
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
        elif how == "bytes":
            written(draw(broken_bytes(path.read_bytes())), path)
        else:
            put(path, draw(st.sampled_from(FILES)), path.read_bytes())
        return "unpack", "{in}/x.pack", "{out}"

    def _database(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Command:
        path = self.here / "in" / "x.db"
        how = draw(st.sampled_from(("value", "value", "value", "bytes", "file")))
        if how == "value":
            self._stored(draw, path)
        elif how == "bytes":
            written(draw(broken_bytes(path.read_bytes())), path)
        else:
            put(path, draw(st.sampled_from(FILES)), path.read_bytes())
        return draw(st.sampled_from(LOOK))

    def _stored(self, draw: Callable[[st.SearchStrategy[Any]], Any], path: Path) -> None:
        """Damage one value of one row."""
        with closing(sqlite3.connect(path)) as connection, connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            table = draw(st.sampled_from(sorted(tables)))
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]
            if not rows:
                return
            row, column = draw(st.sampled_from(rows)), draw(st.sampled_from(columns))
            (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = {row}").fetchone()
            try:
                changed = as_json(draw(documents(json.loads(value)))).decode()
            except (TypeError, ValueError):
                changed = draw(st.sampled_from((None, -1, 2**40, 1e300, "", "x\x1b\n", "{", b"\xff", "9" * 400)))
            try:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = {row}", (changed,))
            except sqlite3.IntegrityError:
                connection.execute(f"DELETE FROM {table} WHERE rowid = {row}")

    def _options(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Command:
        command = draw(st.sampled_from(sorted(OPTIONS)))
        option = draw(st.sampled_from(OPTIONS[command]))
        value = str(draw(st.one_of(st.sampled_from((*TEXTS, *URLS, *map(str, NUMBERS[:10]))), HOSTILE)))[:100_000]
        # What a shell can hand over: no NUL, and bytes that are no UTF-8 as half characters.
        value = value.replace("\0", "").encode("utf-8", "replace").decode() + draw(
            st.sampled_from(("", "", "", "\udcff"))
        )
        return (*command, option, value) if option else (*command, value)

    def _place(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Command:
        """Put something in the place of what is to be written."""
        name, command = draw(st.sampled_from((
            ("", KEPT),
            (SHRINK_TABLE, KEPT),
            (SHRINK_TABLE.replace(".json", ".provenance.json"), KEPT),
            (f".{SHRINK_TABLE}.lock", KEPT),
            ("x.json", (*KEPT, "--json", "{out}/x.json")),
            ("x.db", (*TUNE, "--storage", "sqlite:///{out}/x.db")),
            ("x.db", IMPORT),
            ("x.json", ("show", *DATABASE, "--json", "{out}/x.json")),
        )))  # fmt: skip
        path = self.here / "out" / name
        if not name:
            path.rmdir()
        put(path, draw(st.sampled_from(FILES)), b"{}")
        return command

    def _judge(self, kind: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        (self.folder / "now").write_text(repr((kind, arguments, environment)))
        before = tree(self.here)
        of_kind = self.counts.setdefault(kind, {"0": 0, "1": 0, "2": 0, "fault": 0, "hang": 0})
        kept = dict(os.environ)
        os.environ.update(environment)
        fault = None
        try:
            code, out, err = run(arguments)
            fault = fault_of(code, out, err)
        except Late:
            fault = "no end"
            of_kind["hang"] += 1
        except BaseException as error:  # noqa: BLE001 - that any escapes is the fault
            frames = traceback.extract_tb(error.__traceback__)
            place = next(
                (f for f in reversed(frames) if "bo_tune" in f.filename and "tests" not in f.filename), frames[-1]
            )
            fault = f"{type(error).__name__} from {place.filename}:{place.lineno}: {str(error)[:300]}"
        finally:
            os.environ.clear()
            os.environ.update(kept)
        changed = set(tree(self.here).items()) ^ set(before.items())
        if fault is None and changed and kind != "command line":  # whose paths are where the user wants them
            fault = f"changed outside of its place: {sorted(changed)[:3]}"
        if fault is None:
            of_kind[str(code)] += 1
            return
        of_kind["fault"] += 1
        place = self.folder / "faults" / str(len(self.faults))
        shutil.copytree(
            self.here / "in",
            place,
            symlinks=True,
            ignore=lambda folder, names: [
                n for n in names if not (Path(folder) / n).is_file() or (Path(folder) / n).stat().st_size > 2**24
            ],
        )
        self.faults.append(
            f"{kind}: {fault}\n    bo-tune {' '.join(a[:200] for a in arguments)} {dict(environment)} (input kept in {place})"
        )


def main_of_batch(folder: Path, inputs: int) -> None:
    """Try so many inputs, and write ``result.json``."""
    batch = Batch(folder)
    # Not of addresses, of which the report's charts reserve many GB.
    taken = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line).split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, (taken * 1024 + MOST_MEMORY, resource.RLIM_INFINITY))

    # Faults are gathered, not raised: one run names them all.
    @settings(
        max_examples=inputs,
        phases=[Phase.generate],
        deadline=None,
        derandomize="BO_TUNE_FUZZ" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def tried(data: st.DataObject) -> None:
        batch.one(data.draw)

    tried()
    (folder / "result.json").write_text(json.dumps({"counts": batch.counts, "faults": batch.faults}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main_of_batch(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
