"""Bodies that go from socket to file within the kernel: every byte, at its place, or a failure."""

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
def _answer(
    *fields: str, sent: int = len(_BODY), step: int = 1 << 20, pause: float = 0.0, hold: bool = False
):
    """An answer whose body comes by *step*, and ends after *sent* bytes; with *hold* it does not end."""
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def serve() -> None:
        theirs.sendall("\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode())
        for at in range(0, sent, step):
            theirs.sendall(_BODY[at : min(at + step, sent)])
        if hold:
            over.wait()
        theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    ours.settimeout(0.3)
    response = HTTPResponse(ours)
    try:
        response.begin()
        yield response
    finally:
        over.set()
        response.close()
        ours.close()
        server.join()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def _filled(pipe: Pipe, file: int, place: int, most: int) -> None:
    """All that comes of *pipe*, from *place* of *file* on."""
    while count := pipe.take(most):
        pipe.put(file, place, count)
        place += count


@pytest.mark.parametrize(("step", "most"), [(1 << 20, 256 << 10), (700, 256 << 10), (5000, 3000), (1, 9)])
def test_what_was_read_ahead_and_the_rest(file: int, step: int, most: int) -> None:
    """However it comes, and however much of it is taken at a time, no byte is lost or doubled."""
    sent = len(_BODY) if step > 4000 else 2000 * step
    with _answer(_LENGTH, sent=sent, step=step) as response:
        first = response.read(500)
        pipe = open_pipe(response)
        assert pipe is not None
        os.pwrite(file, first, 0)
        _filled(pipe, file, len(first), most)
        pipe.close()
    assert os.pread(file, len(_BODY), 0) == _BODY[:sent]


def test_an_end_that_comes_too_early(file: int) -> None:
    """Where the other side is gone, what came is there, and no more is said to have come."""
    with _answer(_LENGTH, sent=1 << 20) as response:
        pipe = open_pipe(response)
        assert pipe is not None
        _filled(pipe, file, 0, 256 << 10)
        assert pipe.take(1) == 0
        pipe.close()
    assert os.fstat(file).st_size == 1 << 20


def test_a_silence(file: int) -> None:
    """Who sends nothing any more is not waited for longer than its socket would be."""
    with _answer(_LENGTH, sent=1 << 20, hold=True) as response:
        pipe = open_pipe(response)
        assert pipe is not None
        with pytest.raises(TransportError, match="timed out"):
            _filled(pipe, file, 0, 256 << 10)
        pipe.close()


@pytest.mark.parametrize("fields", [("Transfer-Encoding: chunked",), ("Connection: close",)])
def test_bodies_that_must_be_read(fields: tuple[str, ...]) -> None:
    """A body that is coded, or whose length is not known, is left to be read."""
    with _answer(*fields, sent=0) as response:
        assert open_pipe(response) is None
