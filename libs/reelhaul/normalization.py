"""Unicode normalization of text that a site or a caller chose, in time that is linear in its length."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

# Limit of the Stream-Safe Text Format (UAX #15, section 13): more marks in a row than any language uses.
_MAX_MARKS = 30
# Not marks by their class, but they decompose into marks.
_MARK_SEQUENCES = frozenset("\u0f73\u0f75\u0f81")


def normalize(text: str) -> str:
    """Return *text* in NFC, with at most 30 combining marks in a row.

    ``unicodedata.normalize`` sorts the marks of a letter in quadratic time: 100,000 take a minute.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", "".join(_without_surplus_marks(text)))


def _without_surplus_marks(text: str) -> Iterator[str]:
    marks = 0
    for letter in text:
        is_mark = unicodedata.combining(letter) or letter in _MARK_SEQUENCES
        marks = marks + 1 if is_mark else 0
        if marks <= _MAX_MARKS:
            yield letter
