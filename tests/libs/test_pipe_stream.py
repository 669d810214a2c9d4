"""A log whose reader stops reading: nothing waits for it, and it learns what it missed."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from reelhaul_runtime import logs, pipe_stream
from reelhaul_runtime.pipe_stream import PipeStream, standard_error

LINE = "x" * 99 + "\n"


class Pipe:
    """A pipe that holds 64 KiB, and a stream on it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, 1 << 16)
        self.stream = PipeStream(self.write_end, "lost {}".format)

    def read(self) -> str:
        """Return what is in the pipe."""
        os.set_blocking(self.read_end, False)
        parts = []
        try:
            while part := os.read(self.read_end, 1 << 16):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts).decode()


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """A pipe whose writers are not patient."""
    monkeypatch.setattr(pipe_stream, "_PATIENCE_MILLISECONDS", 1)
    pipe = Pipe()
    yield pipe
    os.close(pipe.read_end)
    os.close(pipe.write_end)


def test_lines_that_are_read_arrive(pipe: Pipe):
    """Each text arrives as it was written, also one that is longer than a chunk."""
    pipe.stream.write(LINE * 300)
    pipe.stream.write("界\udc80\n")
    assert pipe.read() == LINE * 300 + "界\\udc80\n"


def test_nothing_waits_for_a_reader_that_has_stopped(pipe: Pipe):
    """Beyond what the pipe holds lines are dropped; once it is read, a line says how many."""
    for _ in range(1000):
        pipe.stream.write(LINE)
    kept = pipe.read()
    assert 0 < kept.count(LINE) < 1000
    pipe.stream.write("next\n")
    rest = pipe.read()
    assert (kept + rest).endswith(f"lost {1000 - kept.count(LINE)}\nnext\n")
    assert set((kept + rest).splitlines()) <= {LINE.strip(), f"lost {1000 - kept.count(LINE)}", "next"}


def test_a_line_that_is_cut_spoils_no_other(pipe: Pipe):
    """A line of which the reader took a part ends before the next one begins."""
    pipe.stream.write("y" * 100_000 + "\n")
    cut = pipe.read()
    pipe.stream.write("next\n")
    assert 0 < len(cut) < 100_000
    assert pipe.read() == "\nlost 1\nnext\n"


def test_a_reader_that_is_gone(pipe: Pipe):
    """The caller gets an OSError, which logging ignores."""
    os.close(pipe.read_end)
    pipe.read_end = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(BrokenPipeError):
        pipe.stream.write(LINE)


def test_standard_error(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    """Standard error that is a pipe is written so; a file, and what has no descriptor, is as it was."""
    with open(os.devnull, "w") as file:
        for other in (io.StringIO(), file):
            monkeypatch.setattr(sys, "stderr", other)
            assert standard_error(str) is other
    with os.fdopen(os.dup(pipe.write_end), "w") as replaced:
        monkeypatch.setattr(sys, "stderr", replaced)
        assert isinstance(standard_error(str), PipeStream)


def test_the_log_says_what_it_lost(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    """The notice is a line of the log as any other."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with os.fdopen(os.dup(pipe.write_end), "w") as replaced:
        monkeypatch.setattr(sys, "stderr", replaced)
        try:
            logs.configure("jobs", "json", "INFO")
            for _ in range(1000):
                logging.getLogger("x").info("line")
            pipe.read()
            logging.getLogger("x").info("next")
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
    rows = [json.loads(row) for row in pipe.read().splitlines() if row]
    notice, line = rows[-2:]
    assert (notice["level"], notice["service"], line["message"]) == ("WARNING", "jobs", "next")
    assert notice["message"].endswith(" lines were dropped: the output was not read")
