"""Percent-decoding: once, strictly, and never of a slash inside a variable that spans several."""

from __future__ import annotations

import re
from enum import Enum
from urllib.parse import unquote

_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Unescape(Enum):
    """What stays encoded in a variable that spans several segments; the names are Envoy's."""

    #: %2F alone: the rule of google/api/http.proto.
    ALL_CHARACTERS_EXCEPT_SLASH = re.compile(r"(%2[Ff])")
    #: The 18 reserved characters of RFC 6570.
    ALL_CHARACTERS_EXCEPT_RESERVED = re.compile(r"(%(?:2[1346789FfAaBbCc]|3[AaBbDdFf]|40|5[BbDd]))")
    #: Nothing.
    ALL_CHARACTERS = None


def decoded(text: str) -> str:
    """*text* with every escape decoded, as UTF-8. ValueError where it is malformed."""
    if "%" not in text:
        return text
    if _BROKEN.search(text):
        raise ValueError("a malformed percent-escape")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error


def decoded_but(kept: Unescape, text: str) -> str:
    """*text* decoded but for the escapes of *kept*. ValueError where it is malformed."""
    pattern = kept.value
    if pattern is None or "%" not in text:
        return decoded(text)
    # The pattern has one group: escapes that stay are the odd pieces.
    pieces = pattern.split(text)
    return "".join(piece if place % 2 else decoded(piece) for place, piece in enumerate(pieces))
