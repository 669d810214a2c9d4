"""Log multiplexer: the logs of all processes as one stream: JSON lines, or coloured text for a terminal."""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal

from reelhaul_runtime.logs import escape_control_characters
from reelhaul_runtime.redaction import redact_urls

Record = dict[str, Any]

# nats-server's format: [pid] date time [LVL] text
_NATS_LINE = re.compile(r"^\[\d+\] \S+ \S+ \[(\w{3})\] (.*)$")
# Its INFO is a page of banner at each start.
_NATS_LEVELS = {
    "TRC": "DEBUG",
    "DBG": "DEBUG",
    "INF": "DEBUG",
    "WRN": "WARNING",
    "ERR": "ERROR",
    "FTL": "CRITICAL",
}

# gRPC's C++ core writes to standard error by itself: LMMDD time thread file:line] text
_GRPC_LINE = re.compile(r"([IWEF])\d{4} [0-9:.]+ +\d+ ([\w./-]+:\d+)\] (.*)")
# What it reports our services see as the status of a call; they log what matters.
_GRPC_LEVELS = {"I": "DEBUG", "W": "INFO", "E": "INFO", "F": "CRITICAL"}
_GRPC_PREAMBLE = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
# Loggers of lines that no process of ours wrote.
_NATS, _GRPC, _STDERR = "nats-server", "grpc", "stderr"
_FOREIGN_LOGGERS = (_NATS, _GRPC, _STDERR)
# How `serve` reports wrong settings, before its logs are configured.
_REFUSAL = "reelhaul: "
# How faulthandler reports a crash of native code; the stack follows.
_CRASH = "Fatal Python error: "

_COLOURS = {"gateway": 36, "jobs": 32, "fetcher": 35, "storage": 34, "nats": 33}
_LEVEL_COLOURS = {"WARNING": 33, "ERROR": 31, "CRITICAL": 31}
# Fields that text shows in their own place, or not at all.
_NOT_EXTRA = frozenset({"time", "level", "service", "pid", "logger", "message", "exception"})


class NonBlockingWriter:
    """Writes lines to a file descriptor from a thread; ``write`` never blocks.

    Otherwise a stopped terminal, or a program that starts a suite and does not read its output,
    would stop the supervisor, and then each process at its next log line.
    """

    def __init__(self, handle: int, max_lines: int = 10_000) -> None:
        self._handle = handle
        self._lines: queue.Queue[bytes | None] = queue.Queue(max_lines)
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> bool:
        """Queue *line*; return False if it is dropped because the queue is full."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            return False
        return True

    def close(self, seconds: float = 1.0) -> None:
        """Write the queued lines, as far as they are read within *seconds*."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=seconds)
        self._thread.join(seconds)

    def _write_all(self) -> None:
        has_reader = True
        while (line := self._lines.get()) is not None:
            try:
                while has_reader and line:
                    line = line[os.write(self._handle, line) :]
            except OSError:  # the reader has gone for good; the suite goes on
                has_reader = False


class LogRenderer:
    """Renders the lines of all processes to one output."""

    def __init__(
        self, out: NonBlockingWriter, style: Literal["json", "text"], level: str, *, colour: bool = False
    ) -> None:
        self._out, self._style, self._colour = out, style, colour
        self._dropped = 0
        self._level = logging.getLevelNamesMapping()[level]

    def render(self, name: str, line: bytes) -> None:
        """Write one *line* of output of the process *name*.

        What no process of ours wrote is left out below the level; ours know their own levels.
        """
        record = parse_line(name, line)
        level = logging.getLevelNamesMapping().get(str(record["level"]), logging.INFO)
        if level < self._level and record.get("logger") in _FOREIGN_LOGGERS:
            return
        if self._dropped:
            text = f"{self._dropped} lines were dropped: the output was not read"
            if self._write("up", _record("up", "WARNING", text, __name__)):
                self._dropped = 0
        if not self._write(name, record):
            self._dropped += 1

    def _write(self, name: str, record: Record) -> bool:
        text = self._text(name, record) if self._style == "text" else json.dumps(record, ensure_ascii=False)
        return self._out.write(text.encode(errors="replace") + b"\n")

    def _text(self, name: str, record: Record) -> str:
        level = _escape(record["level"])
        extra = "".join(f" {key}={value}" for key, value in record.items() if key not in _NOT_EXTRA)
        head = self._paint(f"{name:<8}", _COLOURS.get(name))
        level = self._paint(f"{level:<7}", _LEVEL_COLOURS.get(level))
        line = f"{_clock(str(record['time']))} {head} {level} {_escape(record['message'])}{_escape(extra)}"
        exception = record.get("exception")
        trace = str(exception.get("stack", "")) if isinstance(exception, dict) else ""
        return "\n".join([line, *(f"{head} {_escape(row)}" for row in trace.splitlines())])

    def _paint(self, text: str, colour: int | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


class LogStream:
    """A text stream whose lines are rendered as output of *name*: for the supervisor's own logs."""

    def __init__(self, name: str, renderer: LogRenderer) -> None:
        self._name, self._renderer = name, renderer

    def write(self, text: str) -> int:
        """Render *text*, one whole line."""
        self._renderer.render(self._name, text.rstrip("\n").encode())
        return len(text)


@contextmanager
def render_to_stderr(style: Literal["json", "text"], level: str) -> Iterator[LogRenderer]:
    """Render to standard error, in colour if it is a terminal."""
    writer = NonBlockingWriter(sys.stderr.fileno())
    try:
        yield LogRenderer(writer, style, level, colour=style == "text" and sys.stderr.isatty())
    finally:
        writer.close()


def parse_line(name: str, output: bytes) -> Record:
    """Return a line of *output* of the process *name* with the fields of our JSON logs, whoever wrote it."""
    line = output.decode(errors="replace")
    # gRPC's last line may lack its end.
    if (start := line.find('{"time":"')) > 0 and _GRPC_LINE.match(line):
        line = line[start:]
    if line.startswith("{"):
        try:
            record: Record = json.loads(line)
        except (ValueError, RecursionError):
            pass
        else:
            if record.keys() >= {"time", "level", "message"}:
                return record
    level, text, logger = "INFO", line, _STDERR
    extra: Record = {}
    if line == _GRPC_PREAMBLE:
        level = "DEBUG"
    elif match := _GRPC_LINE.match(line):
        level, text, logger = _GRPC_LEVELS[match[1]], match[3], _GRPC
        extra = {"source": match[2]}
    elif line.startswith(_REFUSAL):
        level, text = "ERROR", line.removeprefix(_REFUSAL)
    elif line.startswith(_CRASH):
        level = "CRITICAL"
    elif name == "nats" and (match := _NATS_LINE.match(line)):
        level, text, logger = _NATS_LEVELS.get(match[1], "INFO"), match[2], _NATS
    return _record(name, level, redact_urls(text), logger) | extra


def _record(name: str, level: str, text: str, logger: str) -> Record:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now, "level": level, "service": name, "logger": logger, "message": text}


def _escape(text: object) -> str:
    return escape_control_characters(str(text))


def _clock(time: str) -> str:
    """Return the local time of day of an RFC 3339 time."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return _escape(time)
