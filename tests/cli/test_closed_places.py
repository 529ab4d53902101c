"""Every option that takes a path, given places that may not be read or written, or are something else: one line each.

What works in the end is tested elsewhere; here everything is refused, and before anything is tuned.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import EXPAND, ROOT, SHRINK, Cli, Ran, contents, run_command, sliced, write_all
from unprivileged import run_each

pytestmark = pytest.mark.slow

REPLAY = ("--device", "replay:recordings")
MEMORY = ("--storage", "memory")
MODEL = ("--model", ROOT / "studies" / "models" / "llama-3.1-8b", "--max-loras", 4, "--rank", 16)
DATABASE = ("--storage", "sqlite:///a.db")

READ = {
    "tune STUDY": ("tune", "{}", *REPLAY, *MEMORY),
    "tune --model": ("tune", "--model", "{}", "--max-loras", 4, "--rank", 16, *REPLAY, *MEMORY),
    "tune --adapter": ("tune", *MODEL[:4], "--adapter", "{}", *REPLAY, *MEMORY),
    "tune --device": ("tune", "--device", "replay:{}", *MEMORY),
    "tune --experts": ("tune", "study.toml", "--experts", "{}", *REPLAY, *MEMORY),
    "tune --pack": ("tune", "study.toml", "--pack", "{}", *MEMORY),
    "grid STUDY": ("grid", "{}", *REPLAY, *MEMORY),
    "compile STUDY": ("compile", "{}", "--configs", 1),
    "compile --history": ("compile", "study.toml", "--configs", 1, "--history", "{}"),
    "worker --device": ("worker", *DATABASE, "--device", "replay:{}"),
    "simulate": ("simulate", "--recordings", "{}"),
    "check": ("check", "{}", *MODEL),
    "compare": ("compare", "tuned", "{}"),
    "report --recordings": ("report", *DATABASE, "--recordings", "{}"),
    "report --session": ("report", *DATABASE, "--session", "{}"),
    "import": ("import", "{}", "--storage", "sqlite:///new.db"),
    "merge": ("merge", "{}"),
}
PLACES_TO_READ = ("closed/x", "unreadable", "n" * 300, "study.toml/x", "fifo", "/dev/zero", "none")

STORED = {
    "show": ("show",),
    "report": ("report",),
    "export": ("export",),
    "write": ("write",),
    "delete": ("delete", "m16"),
    "worker": ("worker", *REPLAY),
    "tune": ("tune", *REPLAY),
    "import": ("import", "exported"),
    "compile": ("compile", "study.toml", "--configs", 1),
}
DATABASES = ("closed/x.db", "unreadable", "n" * 300, "study.toml/x.db", "fifo", "/dev/zero", "recordings", ":memory:")

WRITTEN = {
    "tune --out": ("tune", *REPLAY, *MEMORY, "--out", "{}"),
    "grid --record": ("grid", *REPLAY, *MEMORY, "--record", "{}"),
    "merge --out": ("merge", "tuned", "--out", "{}"),
    "export --out": ("export", *DATABASE, "--out", "{}"),
    "write --out": ("write", *DATABASE, "--out", "{}"),
}
FOLDERS = ("closed/x", "read-only", "read-only/x", "study.toml", "study.toml/x", "n" * 300, "fifo", "/dev/null")

FILES_WRITTEN = {
    "tune --json": ("tune", *REPLAY, *MEMORY, "--json", "{}"),
    "simulate --json": ("simulate", "--recordings", "recordings", "--json", "{}"),
    "show --json": ("show", *DATABASE, "--json", "{}"),
    "compare --json": ("compare", "tuned", "tuned", "--json", "{}"),
    "check --json": ("check", "tuned", *MODEL, "--json", "{}"),
    "delete --json": ("delete", "m16", *DATABASE, "--json", "{}"),
    "report --out": ("report", *DATABASE, "--out", "{}"),
    "compile --out": ("compile", "study.toml", "--configs", 1, "--out", "{}"),
}
FILES = ("closed/x", "read-only/x", "recordings", "study.toml/x", "n" * 300, "n" * 250)


def cases() -> Iterator[tuple[str, list[str], str]]:
    """Yield what each case is called, its command line, and the place in it that cannot be used."""
    stored = {f"{name} --storage": (*words, "--storage", "sqlite:///{}") for name, words in STORED.items()}
    tables = (READ, PLACES_TO_READ), (stored, DATABASES), (WRITTEN, FOLDERS), (FILES_WRITTEN, FILES)
    for table, places in tables:
        for name, words in table.items():
            for place in places:
                called = place if len(place) < 30 else f"{len(place)} letters"
                yield f"{name} {called}", [str(word).replace("{}", place) for word in words], place


COMMANDS = {name: words for name, words, _ in cases()}
PLACES = {name: place for name, _, place in cases()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ran]]:
    """What came of all the commands, in a folder that is as it was in the end."""
    folder = tmp_path_factory.mktemp("closed") / "here"
    (folder / "recordings").mkdir(parents=True)
    write_all(folder / "recordings", sliced(SHRINK), sliced(EXPAND))
    (folder / "study.toml").write_text(
        '[[problem]]\nkernel = "lora_shrink"\nmax_loras = 4\nnum_slices = 1\nm = 16\nk = 4096\nn = 16\n'
    )
    for words in (("tune", *REPLAY, "--budget", 2, *DATABASE), ("export", *DATABASE, "--out", "exported")):
        assert run_command(*words, cwd=folder).code == 0
    shutil.copytree(folder / "recordings", folder / "read-only")
    os.mkfifo(folder / "fifo")
    (folder / "unreadable").write_text("{}")
    before = contents(folder)
    (folder / "closed").mkdir()
    for name, mode in (("unreadable", 0), ("closed", 0), ("read-only", 0o555)):
        (folder / name).chmod(mode)
    yield run_each(COMMANDS, folder)
    for name in ("unreadable", "closed", "read-only"):
        (folder / name).chmod(0o755)
    after = {name: content for name, content in contents(folder).items() if not name.endswith(("-shm", "-wal"))}
    assert after == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_used_is_one_line(ran: dict[str, Ran], name: str) -> None:
    assert name in ran, "did not end"
    assert Path(PLACES[name]).name in ran[name].error


def test_every_command_is_tried() -> None:
    tried = {words[0] for words in COMMANDS.values()}
    assert tried == {
        "tune", "grid", "compile", "worker", "simulate", "check", "compare", "show", "report", "import", "export",
        "merge", "delete", "write",
    }  # fmt: skip


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_everything_that_is_written_follows_the_umask(cli: Cli, umask: int) -> None:
    """Private stays private, and what others are to read is no file of mode 0600."""
    folder = Path.cwd()
    (folder / "recordings").mkdir()
    write_all(folder / "recordings", sliced(SHRINK))
    given = set(folder.rglob("*"))
    before = os.umask(umask)
    try:
        for words in (
            ("grid", *REPLAY, *DATABASE, "--budget", 2, "--out", "tuned", "--record", "recorded", "--json", "a.json"),
            ("merge", "tuned", "--out", "merged"),
            ("export", *DATABASE, "--out", "exported"),
        ):
            assert cli(*words).code == 0
    finally:
        os.umask(before)
    written = set(folder.rglob("*")) - given
    assert {path.name for path in written if path.is_dir()} == {"tuned", "merged", "recorded", "exported"}
    assert sum(path.is_file() for path in written) >= 9
    for path in written:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path
