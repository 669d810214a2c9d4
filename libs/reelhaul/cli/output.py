"""Output formats: numbers and untrusted text for people, JSON lines for programs."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.message import Message


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


def format_enum(name: str) -> str:
    """Return the name of an enum value in words, e.g. "fetching extras"."""
    return name.lower().replace("_", " ")


def emit_json(value: object) -> None:
    """Print *value* as one line of JSON and flush it, so that a pipe's reader gets it at once."""
    click.echo(json.dumps(value, ensure_ascii=False))


def as_json_value(message: Message) -> Any:
    """Return *message* as the server writes it in JSON: whole numbers have no fraction."""
    return _without_fractions(json_format.MessageToDict(message))


def _without_fractions(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_fractions(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_fractions(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_control(letter: str) -> bool:
    return letter not in "\t\n" and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
