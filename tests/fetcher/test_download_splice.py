"""Splicing bodies from socket to file: every byte arrives at its offset, or the download fails."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path

import pytest
from yt_dlp.networking.exceptions import TransportError

from reelhaul_fetcher.ytdlp.download.splice import Pipe, open_pipe

_BODY = os.urandom(3 << 20)
_LENGTH = f"Content-Length: {len(_BODY)}"


@contextmanager
def _response(*fields: str, sent: int = len(_BODY), step: int = 1 << 20, hold: bool = False):
    """Yield a response whose body comes in steps of *step* bytes and ends after *sent*; not with *hold*."""
    ours, theirs = socket.socketpair()
    finished = threading.Event()

    def serve() -> None:
        theirs.sendall("\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode())
        for start in range(0, sent, step):
            theirs.sendall(_BODY[start : min(start + step, sent)])
        if hold:
            finished.wait()
        theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    ours.settimeout(0.3)
    response = HTTPResponse(ours)
    try:
        response.begin()
        yield response
    finally:
        finished.set()
        response.close()
        ours.close()
        server.join()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def _write_all(pipe: Pipe, file: int, offset: int, limit: int) -> None:
    """Write everything from *pipe* to *file*, from *offset* on."""
    while count := pipe.take(limit):
        pipe.put(file, offset, count)
        offset += count


@pytest.mark.parametrize(("step", "limit"), [(1 << 20, 256 << 10), (700, 256 << 10), (5000, 3000), (1, 9)])
def test_buffered_bytes_and_the_rest(file: int, step: int, limit: int) -> None:
    """No byte is lost or doubled, in whatever pieces the body arrives and is read."""
    sent = len(_BODY) if step > 4000 else 2000 * step
    with _response(_LENGTH, sent=sent, step=step) as response:
        first = response.read(500)
        pipe = open_pipe(response)
        assert pipe is not None
        os.pwrite(file, first, 0)
        _write_all(pipe, file, len(first), limit)
        pipe.close()
    assert os.pread(file, len(_BODY), 0) == _BODY[:sent]


def test_early_end(file: int) -> None:
    """If the other side closes early, the received bytes are written, and no more are reported."""
    with _response(_LENGTH, sent=1 << 20) as response:
        pipe = open_pipe(response)
        assert pipe is not None
        _write_all(pipe, file, 0, 256 << 10)
        assert pipe.take(1) == 0
        pipe.close()
    assert os.fstat(file).st_size == 1 << 20


def test_timeout(file: int) -> None:
    """A silent connection fails after the timeout of its socket."""
    with _response(_LENGTH, sent=1 << 20, hold=True) as response:
        pipe = open_pipe(response)
        assert pipe is not None
        with pytest.raises(TransportError, match="timed out"):
            _write_all(pipe, file, 0, 256 << 10)
        pipe.close()


@pytest.mark.parametrize("fields", [("Transfer-Encoding: chunked",), ("Connection: close",)])
def test_unsupported_bodies(fields: tuple[str, ...]) -> None:
    """A chunked body, or one of unknown length, is not spliced."""
    with _response(*fields, sent=0) as response:
        assert open_pipe(response) is None
