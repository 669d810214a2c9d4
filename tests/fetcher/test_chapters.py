"""Chapters: chapters at wrong times are corrected or left out, and never fail the video."""

from __future__ import annotations

import pytest

from reelhaul.type.v1.media_pb2 import Chapter, MediaInfo
from reelhaul_fetcher.media.verify import to_duration
from reelhaul_fetcher.model.site_limits import MAX_TITLE
from reelhaul_fetcher.model.timing import chapters
from reelhaul_fetcher.model.timing.cuts import Cut, TimeRange
from reelhaul_fetcher.ytdlp.extract.info import to_media_info

Row = tuple[str, float, float]


@pytest.mark.parametrize(
    ("stated", "expected", "misfits"),
    [
        ([("C", 4, 6), ("A", 0, 2), ("B", 2, 4)], [("A", 0, 2), ("B", 2, 4), ("C", 4, 6)], 0),
        ([("A", 0, 4), ("B", 2, 6)], [("A", 0, 2), ("B", 2, 6)], 0),
        ([("A", 0, 6), ("B", 1, 6)], [("A", 0, 1), ("B", 1, 6)], 1),
        ([("A", 0, 0), ("B", 0, 3), ("C", 3, 3), ("D", 3, 6)], [("B", 0, 3), ("D", 3, 6)], 2),
        ([("A", 0, 3), ("B", 3, 60), ("C", 60, 70)], [("A", 0, 3), ("B", 3, 6)], 2),
        ([("A", 0, 3), ("B", 3, 6.5)], [("A", 0, 3), ("B", 3, 6)], 0),
        ([("A", 0, 0), ("B", 2, 0), ("C", 4, 0)], [("A", 0, 2), ("B", 2, 4), ("C", 4, 6)], 0),
        ([("A", 3, 1), ("B", 5, 6)], [("A", 3, 5), ("B", 5, 6)], 1),
        ([("A", 0, 2), ("B", 4, 6)], [("A", 0, 2), ("B", 4, 6)], 0),
        ([("A", 0, 0.01), ("B", 0.01, 6)], [("B", 0.01, 6)], 1),
        ([("<Untitled Chapter 1>", 0, 4), ("B", 4, 6), ("A", 0, 4)], [("A", 0, 4), ("B", 4, 6)], 0),
        ([("A", 10, 20), ("B", 20, 30)], [], 2),
        ([], [], 0),
    ],
)
def test_chapters_of_a_site(stated: list[Row], expected: list[Row], misfits: int) -> None:
    """Chapters of media of 6 seconds are in order, within it, and one at a time."""
    media = MediaInfo(
        chapters=[Chapter(title=t, start=to_duration(a), end=to_duration(b)) for t, a, b in stated]
    )
    found, count = chapters.from_media(media, 6.0)
    assert [(c.title, c.time_range.start, c.time_range.end) for c in found] == expected
    assert count == misfits


@pytest.mark.parametrize("start", [None, "x", -1, float("nan"), float("inf"), 10**400, [], {}])
def test_start_that_is_no_time(start: object) -> None:
    """A chapter that begins at no time is left out; the others stay."""
    stated = [
        {"title": "odd", "start_time": start, "end_time": 1},
        {"title": "A", "start_time": 0, "end_time": "2"},
    ]
    (chapter,) = to_media_info({"chapters": stated}).chapters
    assert (chapter.title, chapter.end.ToTimedelta().total_seconds()) == ("A", 2.0)


@pytest.mark.parametrize(
    "value", [5, "x", {"a": 1}, [5, None, "x", {"title": "A", "start_time": 1}], [[]], True], ids=range(6)
)
def test_chapters_that_are_none(value: object) -> None:
    """A site's list of chapters that is none does not fail the media."""
    assert len(to_media_info({"title": "a", "chapters": value}).chapters) <= 1


@pytest.mark.parametrize(
    ("title", "written"),
    [
        ("a=b;c#d\\e", "a\\=b\\;c\\#d\\\\e"),
        ('x/y: "z"\nnew', 'x/y: "z" new'),
        ("日本語 🎬", "日本語 🎬"),
        ("", ""),
        ("tab\tand\0nul\x1b", "tab and nul "),
        ("x" * MAX_TITLE, "x" * 200),
        ("[CHAPTER]", "[CHAPTER]"),
    ],
)
def test_titles(title: str, written: str) -> None:
    """Titles of any characters are written in ffmpeg's metadata format."""
    text = chapters.to_ffmetadata([chapters.Chapter(title, TimeRange(0, 1))])
    assert text.splitlines()[-1] == f"title={written}"


def test_chapters_after_a_cut() -> None:
    """What a cut leaves of the chapters is within the result."""
    stated = [chapters.Chapter("A", TimeRange(0, 3)), chapters.Chapter("B", TimeRange(3, 6))]
    cut = Cut((TimeRange(2, 5),))
    found = chapters.apply_cut(stated, cut, 3.0)
    assert [(c.title, c.time_range.start, c.time_range.end) for c in found] == [("A", 0, 1), ("B", 1, 3)]
