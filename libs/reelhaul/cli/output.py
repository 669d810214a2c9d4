"""Output formats: numbers and untrusted text for people, tables, JSON lines for programs."""

from __future__ import annotations

import json
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

# A last column narrower than this is no use: each row is then printed on several lines.
_MIN_LAST_COLUMN = 16
_GAP = "  "


def printable(text: str) -> str:
    """Return *text* without characters that could control a terminal; titles are untrusted."""
    return "".join(" " if c in "\t\n" else c for c in text if not _is_control(c))


def format_bytes(count: float) -> str:
    """Return a number of bytes for people, e.g. "3.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_duration(seconds: float) -> str:
    """Return a duration for people, e.g. "1:02:03" or "0:07"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_time(time: Timestamp) -> str:
    """Return *time* in the local time zone, to the minute; empty if it is unset."""
    return f"{to_local(time):%Y-%m-%d %H:%M}" if time.seconds else ""


def to_local(time: Timestamp) -> datetime:
    """Return *time* in the local time zone."""
    return time.ToDatetime(UTC).astimezone()


def format_enum(name: str) -> str:
    """Return the name of an enum value in words, e.g. "fetching extras"."""
    return name.lower().replace("_", " ")


def emit_json(value: object) -> None:
    """Print *value* as one line of JSON and flush it, so that a pipe's reader gets it at once."""
    click.echo(json.dumps(value, ensure_ascii=False))


def as_json_value(message: Message) -> Any:
    """Return *message* as the server writes it in JSON: whole numbers have no fraction."""
    return _without_fractions(json_format.MessageToDict(message))


def print_values(values: Mapping[str, str]) -> None:
    """Print the values that are not empty, each on a line with its name."""
    present = {name: printable(value).strip() for name, value in values.items()}
    width = max([9, *(len(name) for name, value in present.items() if value)]) + 2
    for name, value in present.items():
        if value:
            click.echo(f"{name + ':':{width}}{value}")


def print_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print *rows*: tab-separated for programs, at a terminal aligned under *names*.

    At a terminal the last column is cut to the width. Where there is no room for it, each row is printed on
    two lines.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            click.echo("\t".join(row))
        return
    width = shutil.get_terminal_size().columns
    for line in format_table(names, cells, width):
        click.echo(line)


def format_table(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table that is at most *width* columns wide."""
    # rich is imported here because it takes longer to import than the rest of the command line.
    from rich.cells import cell_len, set_cell_size

    if not rows:
        return []
    used = [index for index in range(len(names)) if any(row[index] for row in rows)]
    columns = [[names[index].upper(), *(row[index] for row in rows)] for index in used]
    widths = [max(cell_len(cell) for cell in column) for column in columns]
    rest = width - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1)
    if rest < min(widths[-1], _MIN_LAST_COLUMN):
        return [line for row in rows for line in _stack(row, width)]
    widths[-1] = min(widths[-1], rest)
    return [
        _GAP.join(
            _cut(cell, size) if index == len(widths) - 1 else set_cell_size(cell, size)
            for index, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _stack(row: Sequence[str], width: int) -> list[str]:
    """Return *row* on lines of its own: the first cell, and below it the others."""
    lines, line = [_cut(row[0], width)], ""
    for cell in filter(None, row[1:]):
        longer = f"{line}{_GAP}{cell}"
        if line and len(longer) > width:
            lines.append(_cut(line, width))
            longer = f"{_GAP}{cell}"
        line = longer
    return [*lines, _cut(line, width)] if line else lines


def _cut(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _without_fractions(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_fractions(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_fractions(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_control(letter: str) -> bool:
    return letter not in "\t\n" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
