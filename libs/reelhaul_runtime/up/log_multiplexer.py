"""The logs of all parts as one: JSON lines for programs, coloured text for a terminal."""

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

# nats-server's: [pid] date time [LVL] text
_NATS = re.compile(r"^\[\d+\] \S+ \S+ \[(\w{3})\] (.*)$")
# Its INFO is a page of banner at each start.
_NATS_LEVELS = {
    "TRC": "DEBUG",
    "DBG": "DEBUG",
    "INF": "DEBUG",
    "WRN": "WARNING",
    "ERR": "ERROR",
    "FTL": "CRITICAL",
}

_COLOURS = {"gateway": 36, "jobs": 32, "fetcher": 35, "storage": 34, "nats": 33}
_LEVEL_COLOURS = {"WARNING": 33, "ERROR": 31, "CRITICAL": 31}
# Titles of videos are in the logs: one must not move the cursor, or worse.
_VISIBLE = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)]}
# Shown in a place of their own, or of no use to a person.
_PLACED = frozenset({"time", "level", "service", "pid", "logger", "message", "exception"})


class NonBlockingWriter:
    """Writes lines to a file descriptor and never keeps who tells them waiting.

    A terminal that is stopped, or a program that starts a suite and does not read what it
    says, would otherwise stop the supervisor, and then every part at its next log line.
    """

    def __init__(self, handle: int, held: int = 10_000) -> None:
        self._handle = handle
        self._lines: queue.Queue[bytes | None] = queue.Queue(held)
        self._writing = threading.Thread(target=self._write_all, daemon=True)
        self._writing.start()

    def write(self, line: bytes) -> bool:
        """Whether *line* will be written; not while too many wait."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            return False
        return True

    def close(self, seconds: float = 1.0) -> None:
        """Write what waits, as far as somebody reads it within *seconds*."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=seconds)
        self._writing.join(seconds)

    def _write_all(self) -> None:
        readable = True
        while (line := self._lines.get()) is not None:
            try:
                while readable and line:
                    line = line[os.write(self._handle, line) :]
            except OSError:  # the reader has gone for good; the suite goes on
                readable = False


class LogRenderer:
    """The parts' lines, rendered for *out*."""

    def __init__(
        self, out: NonBlockingWriter, style: Literal["json", "text"], level: str, *, colour: bool = False
    ) -> None:
        self._out, self._style, self._colour = out, style, colour
        self._lost = 0
        self._least = logging.getLevelNamesMapping()[level]

    def render(self, name: str, raw: bytes) -> None:
        """Pass on one line that the part *name* wrote."""
        said = _parsed(name, raw.decode(errors="replace"))
        if logging.getLevelNamesMapping().get(str(said["level"]), logging.INFO) < self._least:
            return
        if self._lost and self._write(
            "up", _said("up", "WARNING", f"{self._lost} lines were lost: nobody read")
        ):
            self._lost = 0
        if not self._write(name, said):
            self._lost += 1

    def _write(self, name: str, said: dict[str, Any]) -> bool:
        line = self._text(name, said) if self._style == "text" else json.dumps(said, ensure_ascii=False)
        return self._out.write(line.encode(errors="replace") + b"\n")

    def _text(self, name: str, said: dict[str, Any]) -> str:
        level = str(said["level"])
        extra = "".join(f" {key}={value}" for key, value in said.items() if key not in _PLACED)
        head = self._painted(f"{name:<8}", _COLOURS.get(name))
        body = self._painted(f"{level:<7}", _LEVEL_COLOURS.get(level))
        line = f"{_clock(str(said['time']))} {head} {body} {_visible(said['message'])}{_visible(extra)}"
        trace = str(said.get("exception", ""))
        return "\n".join([line, *(f"{head} {_visible(row)}" for row in trace.splitlines())])

    def _painted(self, text: str, colour: int | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


class LogStream:
    """A text stream whose lines are told as the part *name*'s: for the supervisor's own logs."""

    def __init__(self, name: str, lines: LogRenderer) -> None:
        self._name, self._lines = name, lines

    def write(self, text: str) -> int:
        """Tell *text*, one whole line."""
        self._lines.render(self._name, text.rstrip("\n").encode())
        return len(text)


@contextmanager
def render_to_stderr(style: Literal["json", "text"], level: str) -> Iterator[LogRenderer]:
    """Lines on standard error, coloured if that is a terminal."""
    outlet = NonBlockingWriter(sys.stderr.fileno())
    try:
        yield LogRenderer(outlet, style, level, colour=style == "text" and sys.stderr.isatty())
    finally:
        outlet.close()


def _parsed(name: str, line: str) -> dict[str, Any]:
    """What *line* says, in the fields of our JSON logs, whoever wrote it."""
    if line.startswith("{"):
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            pass
        else:
            if said.keys() >= {"time", "level", "message"}:
                return said
    level, text = "INFO", line
    if name == "nats" and (found := _NATS.match(line)):
        level, text = _NATS_LEVELS.get(found[1], "INFO"), found[2]
    return _said(name, level, text)


def _said(name: str, level: str, text: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now, "level": level, "service": name, "message": text}


def _visible(text: object) -> str:
    return str(text).translate(_VISIBLE)


def _clock(time: str) -> str:
    """The local time of day of an RFC 3339 time."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return time
