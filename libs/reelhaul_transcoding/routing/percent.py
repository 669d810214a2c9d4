"""Percent-decoding: exactly once, strict, and %2F stays encoded in variables of several segments."""

from __future__ import annotations

import re
from enum import Enum
from urllib.parse import unquote

_MALFORMED = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Unescape(Enum):
    """Which escapes stay encoded in a variable of several segments; the names are Envoy's.

    Each value is a pattern with one group, or None.
    """

    #: Only %2F: the rule of google/api/http.proto.
    ALL_CHARACTERS_EXCEPT_SLASH = re.compile(r"(%2[Ff])")
    #: The 18 reserved characters of RFC 6570.
    ALL_CHARACTERS_EXCEPT_RESERVED = re.compile(r"(%(?:2[1346789FfAaBbCc]|3[AaBbDdFf]|40|5[BbDd]))")
    #: None.
    ALL_CHARACTERS = None


def percent_decode(text: str) -> str:
    """Return *text* with every escape decoded as UTF-8. Raises ValueError if it is malformed."""
    if "%" not in text:
        return text
    if _MALFORMED.search(text):
        raise ValueError("a malformed percent-escape")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("invalid UTF-8") from error


def percent_decode_except(kept: Unescape, text: str) -> str:
    """Return *text* decoded except for the escapes of *kept*. Raises ValueError if it is malformed."""
    pattern = kept.value
    if pattern is None or "%" not in text:
        return percent_decode(text)
    # The pattern has one group, so the escapes that stay are the pieces at odd indices.
    pieces = pattern.split(text)
    return "".join(piece if index % 2 else percent_decode(piece) for index, piece in enumerate(pieces))
