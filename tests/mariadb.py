"""A MariaDB server of the tests' own, where the machine has one: MySQL's dialect, spoken for real."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

USER = "nobody"
STARTS_WITHIN_S = 180.0


class Mariadb:
    """A server on this machine alone."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._databases = 0

    def _execute(self, statement: str) -> None:
        import pymysql  # noqa: PLC0415 - only where there is a server

        connection: Any = pymysql.connect(host="127.0.0.1", port=self._port, user="root", autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def wait(self) -> None:
        """Wait until the server answers."""
        import pymysql  # noqa: PLC0415

        end = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < end:
            with suppress(pymysql.err.OperationalError):
                return self._execute("SELECT 1")
            time.sleep(0.1)
        raise AssertionError("MariaDB does not answer")

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        self._databases += 1
        name = f"studies{self._databases}"
        self._execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return f"mysql+pymysql://root@127.0.0.1:{self._port}/{name}"


def server() -> str | None:
    """Where the server's program is."""
    return shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def running_mariadb() -> Iterator[Mariadb]:
    """Start a server, and end it afterwards."""
    program, installer = server(), shutil.which("mariadb-install-db")
    assert program is not None
    assert installer is not None
    with tempfile.TemporaryDirectory(prefix="bo-tune-maria-", dir="/tmp") as name:
        folder = Path(name)
        user = USER if os.getuid() == 0 else None
        if user:
            shutil.chown(folder, user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data = f"--datadir={folder / 'data'}"
        subprocess.run(
            [installer, "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db"],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
        place = [f"--socket={folder / 'socket'}", f"--port={port}", "--bind-address=127.0.0.1"]
        more = ["--pid-file=pid", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "--no-defaults", data, *place, *more], user=user, cwd=folder, stdout=log, stderr=log
            )
        try:
            started = Mariadb(port)
            started.wait()
            yield started
        finally:
            process.kill()
            process.wait()
