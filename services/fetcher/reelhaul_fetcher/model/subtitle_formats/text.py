"""Text of cues: HTML character references, line breaks and spaces, for all formats."""

from __future__ import annotations

import html
import re

LINE_BREAK = re.compile(r"\r\r\n|\r\n|\r|\n")
SPACES = re.compile(r"[ \t\r\n\f]+")
#: With its semicolon: "R&D" and "?a=1&copy=2" are text.
REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class SubtitlesUnreadable(ValueError):
    """The file has no readable cues; the text says why."""


def unescape(text: str) -> str:
    """Return *text* with its HTML character references resolved."""
    return REFERENCE.sub(lambda match: html.unescape(match[0]), text)
