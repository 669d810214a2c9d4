"""JSON-LD descriptions of media with values of the wrong type do not fail the video."""

from __future__ import annotations

from typing import Any

import pytest

from reelhaul_fetcher.ytdlp.extract.json_ld import repair


def clip(name: Any, start: Any, end: Any) -> dict[str, Any]:
    """Return a chapter as sites describe it."""
    return {"@type": "Clip", "name": name, "startOffset": start, "endOffset": end}


@pytest.mark.parametrize(
    ("value", "repaired"),
    [
        ("text", "text"),
        (5, "5"),
        (["first", "second"], "first"),
        ({"@value": "text", "@language": "en"}, "text"),
        ([{"@value": "text"}], "text"),
        ({"a": "b"}, None),
        ([], None),
        (True, None),
        (None, None),
    ],
)
def test_texts(value: Any, repaired: str | None) -> None:
    """Names and the like are texts, at any depth."""
    document = [{"@graph": [{"name": value, "video": {"description": value}}]}]
    repair(document)
    video: Any = document[0]["@graph"][0]
    assert (video["name"], video["video"]["description"]) == (repaired, repaired)


@pytest.mark.parametrize(
    ("parts", "repaired"),
    [
        ("text", []),
        (None, []),
        ({"@type": "Clip", "name": "a", "startOffset": 1}, [("a", 1.0, None)]),
        (["x", 5, None, clip("a", 1, 2)], [("a", 1.0, 2.0)]),
        ([clip("b", 2, 4), clip("a", 0, 2)], [("a", 1e-9, 2.0), ("b", 2.0, 4.0)]),
        ([clip(None, "1", "x"), clip({}, 2, [])], [("", 1.0, None), ("", 2.0, None)]),
        ([clip("a", None, 2), clip("b", "x", 2), clip("c", -1, 2), clip("d", float("nan"), 2)], []),
    ],
)
def test_clips(parts: Any, repaired: list[tuple[str, float, float | None]]) -> None:
    """Chapters are in order, with a name and a start; what has no start is left out."""
    document = {"hasPart": parts}
    repair(document)
    clips: Any = document["hasPart"]
    assert [(part["name"], part["startOffset"], part["endOffset"]) for part in clips] == repaired


def test_depth_and_number() -> None:
    """Deep and long documents are read."""
    document: Any = {"name": 5}
    for _ in range(100_000):
        document = {"video": document}
    repair(document)
    many = {"hasPart": [clip("a", n, n + 1) for n in range(5000)]}
    repair(many)
    assert len(many["hasPart"]) < 1100
    # Deeper than the interpreter frees by recursion.
    while "video" in document:
        document = document["video"]
    assert document["name"] == "5"
