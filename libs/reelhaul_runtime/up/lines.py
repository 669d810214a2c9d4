"""The logs of all parts as one: JSON lines for programs, coloured text for a terminal."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal

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
# Shown in a place of their own, or of no use to a person.
_PLACED = frozenset({"time", "level", "service", "pid", "logger", "message", "exception"})


class Lines:
    """Writes the parts' lines to *out*; a reader that went away ends the telling, not the suite."""

    def __init__(
        self, out: BinaryIO, style: Literal["json", "text"], level: str, *, colour: bool = False
    ) -> None:
        self._out, self._style, self._colour = out, style, colour
        self._least = logging.getLevelNamesMapping()[level]

    def tell(self, name: str, raw: bytes) -> None:
        """Pass on one line that the part *name* wrote."""
        said = _parsed(name, raw.decode(errors="replace"))
        if logging.getLevelNamesMapping().get(str(said["level"]), logging.INFO) < self._least:
            return
        line = self._text(name, said) if self._style == "text" else json.dumps(said, ensure_ascii=False)
        try:
            self._out.write(line.encode(errors="replace") + b"\n")
            self._out.flush()
        except (BrokenPipeError, ValueError):
            return

    def _text(self, name: str, said: dict[str, Any]) -> str:
        level = str(said["level"])
        extra = "".join(f" {key}={value}" for key, value in said.items() if key not in _PLACED)
        head = self._painted(f"{name:<8}", _COLOURS.get(name))
        body = self._painted(f"{level:<7}", _LEVEL_COLOURS.get(level))
        line = f"{_clock(str(said['time']))} {head} {body} {said['message']}{extra}"
        trace = str(said.get("exception", ""))
        return "\n".join([line, *(f"{head} {row}" for row in trace.splitlines())])

    def _painted(self, text: str, colour: int | None) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


class Stream:
    """A text stream whose lines are told as the part *name*'s: for the supervisor's own logs."""

    def __init__(self, name: str, lines: Lines) -> None:
        self._name, self._lines = name, lines

    def write(self, text: str) -> int:
        """Tell *text*, one whole line."""
        self._lines.tell(self._name, text.rstrip("\n").encode())
        return len(text)


def to_stderr(style: Literal["json", "text"], level: str) -> Lines:
    """Lines on standard error, coloured if that is a terminal."""
    return Lines(sys.stderr.buffer, style, level, colour=style == "text" and sys.stderr.isatty())


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
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now, "level": level, "service": name, "message": text}


def _clock(time: str) -> str:
    """The local time of day of an RFC 3339 time."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return time
