"""Qualities: classes of picture sizes, such as "1080p".

A landscape picture belongs to the smallest 16:9 class that contains it, so that a film of 1920x800 is "1080p"
like its uncropped original. A portrait picture belongs to the class of its shorter side.
"""

from __future__ import annotations

#: The numbers of the classes, best first: "4320p" to "144p".
CLASSES = (4320, 2160, 1440, 1080, 720, 480, 360, 240, 144)

# A picture of at least this share of a class belongs to it: 1440x1072 is 1080p, because encoders round sizes
# to multiples of 16, and films are slightly cropped.
_SUFFICIENT_SHARE = 0.95


def count_lines(width: int, height: int) -> float:
    """Return the lines by which a picture is compared with others; 0 if *height* is unknown.

    An unknown *width* is assumed to be that of 16:9.
    """
    if not width or not height:
        return height
    return width if height > width else max(height, width * 9 / 16)


def classify(width: int, height: int) -> int:
    """Return the class of a picture; 0 if it is smaller than all, or unknown."""
    lines = count_lines(width, height)
    return next((each for each in CLASSES if lines >= each * _SUFFICIENT_SHARE), 0)


def is_within(width: int, height: int, maximum: int) -> bool:
    """Return whether a picture is within *maximum*: a class, or else pixels of the shorter side."""
    if maximum in CLASSES:
        return classify(width, height) <= maximum
    return _shorter_side(width, height) <= maximum


def reaches(width: int, height: int, minimum: int) -> bool:
    """Return whether a picture has at least *minimum*: a class, or else pixels of the shorter side."""
    if minimum in CLASSES:
        return classify(width, height) >= minimum
    return _shorter_side(width, height) >= minimum


def describe(width: int, height: int) -> str:
    """Return the size of a picture and its class for people; *width* may be unknown."""
    number = classify(width, height)
    size = f"{width}x{height} pixels" if width else f"{height} lines"
    return f"{size} ({number}p)" if number else size


def describe_limit(limit: int) -> str:
    """Return a limit of ``is_within`` or ``reaches`` for people."""
    return f"{limit}p" if limit in CLASSES else f"{limit} lines"


def _shorter_side(width: int, height: int) -> int:
    return min(width, height) if width and height else height
