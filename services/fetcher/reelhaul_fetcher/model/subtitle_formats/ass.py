"""Advanced SubStation Alpha (.ass) and its predecessor (.ssa)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reelhaul_fetcher.model.subtitle_formats.text import LINE_BREAK
from reelhaul_fetcher.model.subtitle_formats.webvtt import parse_time
from reelhaul_fetcher.model.timing.cues import Cue

_COLUMNS = ("layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text")
_MAX_COLUMNS = 50
_BLOCK = re.compile(r"\{[^{}]*\}")
_DRAWING = re.compile(r"\\p(\d)")
_ESCAPE = re.compile(r"\\[Nnh{}]")
_ESCAPES = {"\\N": "\n", "\\n": "\n", "\\h": "\N{NO-BREAK SPACE}", "\\{": "{", "\\}": "}"}


def parse(text: str, _: str) -> Iterator[Cue]:
    """Yield the dialogue of *text*, without styles, comments and drawings."""
    columns, section = list(_COLUMNS), "[events]"
    for line in LINE_BREAK.split(text):
        if line.lstrip("\ufeff").startswith("["):
            section = line.strip("\ufeff \t").lower()
        if section != "[events]":
            continue
        key, _separator, value = line.partition(":")
        kind = key.strip().lower()
        if kind == "format":
            columns = [name.strip().lower() for name in value.split(",", _MAX_COLUMNS)]
        elif kind == "dialogue":
            row = dict(zip(columns, value.split(",", len(columns) - 1), strict=False))
            start, end = parse_time(row.get("start", "")), parse_time(row.get("end", ""))
            yield Cue(start, end, _plain(row.get("text", "")))


def _plain(text: str) -> str:
    """Return *text* without overrides, comments and drawings."""
    parts: list[str] = []
    is_drawing, position = False, 0
    for block in _BLOCK.finditer(text):
        parts += [] if is_drawing else [text[position : block.start()]]
        for drawing in _DRAWING.finditer(block[0]):
            is_drawing = drawing[1] != "0"
        position = block.end()
    parts += [] if is_drawing else [text[position:]]
    return _ESCAPE.sub(lambda match: _ESCAPES[match[0]], "".join(parts))
