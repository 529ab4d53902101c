"""Streams that outlast whoever reads them: real pipes, a full device, pseudo-terminals."""

import errno
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bo_tune.processes import streams
from bo_tune.processes.streams import ENCODING, LastingFile, fault_of, hurry, lasting_stderr

MUCH = b"x" * 1_000_000
"""More than any pipe holds."""


def stream_of(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(LastingFile(descriptor)), encoding=ENCODING)


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


@pytest.mark.parametrize("is_blocking", [True, False], ids=["blocking", "not blocking"])
def test_a_slow_reader_is_waited_for_and_gets_all(pipe: tuple[int, int], is_blocking: bool) -> None:
    reads, writes = pipe
    os.set_blocking(writes, is_blocking)
    found: list[bytes] = []

    def read() -> None:
        time.sleep(0.3)
        with os.fdopen(reads, "rb") as file:
            found.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    stream = stream_of(writes)
    stream.write(MUCH.decode())
    assert fault_of(stream) is None
    os.close(writes)
    reader.join()
    assert found == [MUCH]


def test_a_reader_that_left_is_no_fault(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    os.close(reads)
    stream = stream_of(writes)
    stream.write(MUCH.decode())
    assert fault_of(stream) is None
    assert isinstance(raw := stream.buffer.raw, LastingFile)
    assert raw.fault is not None
    assert raw.fault.errno == errno.EPIPE
    os.close(writes)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_device_is_a_fault_that_is_told_once() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        stream = stream_of(full.fileno())
        stream.write("one\n")
        stream.flush()
        stream.write("two\n")
        assert fault_of(stream) == os.strerror(errno.ENOSPC)


def test_a_terminal_that_was_closed_is_no_fault() -> None:
    master, slave = os.openpty()
    os.close(master)
    stream = stream_of(slave)
    stream.write("one\n")
    assert fault_of(stream) is None
    os.close(slave)


@pytest.mark.slow
def test_who_was_asked_to_end_does_not_wait_for_a_reader_that_stopped(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, writes = pipe
    monkeypatch.setattr(hurry, "_ends_at", None)
    stream = stream_of(writes)
    began = time.monotonic()
    asked = threading.Timer(0.5, hurry.begin)
    asked.start()
    stream.write(MUCH.decode())
    stream.flush()
    assert 0.5 < time.monotonic() - began < 5
    assert fault_of(stream) is None
    os.close(reads)
    os.close(writes)


def test_streams_put_in_place_of_the_standard_ones_stay(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    streams.make_streams_outlive_readers()
    assert (sys.stdout, sys.stderr) == before
    assert lasting_stderr() is sys.stderr


@pytest.mark.parametrize("write", [lambda s: s.write("\ud800\n"), lambda s: s.write("é\n")])
def test_what_an_encoding_cannot_show_is_escaped(
    write: Callable[[io.TextIOBase], object], monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    reads, writes = pipe
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = streams._lasting(ascii_only, writes)
    write(stream)
    stream.flush()
    assert os.read(reads, 100) in {b"\\ud800\n", b"\\xe9\n"}
    os.close(reads)
    os.close(writes)
