"""Qualities: which pictures a word such as "1080p" stands for."""

from __future__ import annotations

import pytest

from reelhaul import qualities


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1920, 1080, 1080),
        # Films, whose black bars were cut off.
        (1920, 816, 1080),
        (1920, 800, 1080),
        (1280, 534, 720),
        (480, 200, 240),
        (3840, 1600, 2160),
        (4096, 1716, 2160),
        # 21:9.
        (2560, 1080, 1440),
        (3440, 1440, 1440),
        # 4:3 and square.
        (1440, 1080, 1080),
        (1440, 1072, 1080),
        (640, 480, 480),
        (1080, 1080, 1080),
        # Portraits.
        (1080, 1920, 1080),
        (606, 1080, 480),
        (404, 720, 360),
        (202, 360, 144),
        (1080, 2400, 1080),
        # Sides as encoders round them, and cropped a little.
        (854, 480, 480),
        (848, 464, 480),
        (1916, 1036, 1080),
        (480, 272, 240),
        # Without a width: of 16:9.
        (0, 720, 720),
        # The extremes.
        (7680, 4320, 4320),
        (15360, 8640, 4320),
        (64, 36, 0),
        (0, 0, 0),
    ],
)
def test_class(width: int, height: int, expected: int) -> None:
    """A landscape counts by the side that is larger in 16:9, a portrait by its shorter side."""
    assert qualities.classify(width, height) == expected


@pytest.mark.parametrize(
    ("size", "limit", "within", "reached"),
    [
        ((1920, 800), 1080, True, True),
        ((1920, 800), 720, False, True),
        ((1920, 800), 1440, True, False),
        ((606, 1080), 480, True, True),
        ((606, 1080), 720, True, False),
        # No class: pixels of the shorter side.
        ((1920, 800), 800, True, True),
        ((1920, 800), 799, False, True),
        ((606, 1080), 600, False, True),
        ((606, 1080), 700, True, False),
        # Smaller than all classes.
        ((64, 36), 144, True, False),
    ],
)
def test_limits(size: tuple[int, int], limit: int, within: bool, reached: bool) -> None:
    """A limit that is a class is compared with the picture's class, any other with its shorter side."""
    assert (qualities.is_within(*size, limit), qualities.reaches(*size, limit)) == (within, reached)


def test_descriptions() -> None:
    """Messages have the size of a picture and its class."""
    assert qualities.describe(1920, 800) == "1920x800 pixels (1080p)"
    assert qualities.describe(0, 90) == "90 lines"
    assert (qualities.describe_limit(720), qualities.describe_limit(700)) == ("720p", "700 lines")
