"""Chapters: those of the media, after a cut, and with SponsorBlock segments laid over them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import MediaInfo
from reelhaul_fetcher.model.cuts import Cut, TimeRange

# Characters that ffmpeg's metadata format escapes; line breaks become spaces.
_ESCAPES = str.maketrans({c: f"\\{c}" for c in "=;#\\"} | {"\n": " ", "\r": " "})
_MAX_TITLE = 200


@dataclass(frozen=True, slots=True)
class Chapter:
    """A named time range."""

    title: str
    time_range: TimeRange


def from_media(media: MediaInfo) -> list[Chapter]:
    """Return the chapters of *media*; one without an end ends where the next begins, the last at infinity."""
    chapters = [Chapter(chapter.title, _time_range(chapter)) for chapter in media.chapters]
    next_starts = [*(chapter.time_range.start for chapter in chapters[1:]), math.inf]
    return [
        chapter
        if chapter.time_range.length > 0
        else Chapter(chapter.title, TimeRange(chapter.time_range.start, next_start))
        for chapter, next_start in zip(chapters, next_starts, strict=bool(chapters))
    ]


def whole(title: str) -> Chapter:
    """Return one chapter for all of the media: the base of an overlay if the media has no chapters."""
    return Chapter(title, TimeRange(0.0, math.inf))


def overlay(base: Sequence[Chapter], top: Iterable[Chapter]) -> list[Chapter]:
    """Return *base* with the chapters *top* replacing what they cover."""
    remaining = list(base)
    covering = sorted(top, key=lambda chapter: chapter.time_range.start)
    for cover in covering:
        remaining = [rest for chapter in remaining for rest in _subtract(chapter, cover.time_range)]
    return sorted([*remaining, *covering], key=lambda chapter: chapter.time_range.start)


def apply_cut(chapters: Iterable[Chapter], cut: Cut, duration: float) -> list[Chapter]:
    """Return *chapters* as they are after *cut*, limited to the *duration* of the result."""
    mapped = ((chapter.title, cut.map_range(chapter.time_range)) for chapter in chapters)
    limited = (
        Chapter(title, TimeRange(span.start, min(span.end, duration))) for title, span in mapped if span
    )
    return [chapter for chapter in limited if chapter.time_range.length > 0]


def to_ffmetadata(chapters: Iterable[Chapter]) -> str:
    """Return *chapters* in ffmpeg's metadata format."""
    blocks = (
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={round(chapter.time_range.start * 1000)}\n"
        f"END={round(chapter.time_range.end * 1000)}\n"
        f"title={chapter.title[:_MAX_TITLE].translate(_ESCAPES)}\n"
        for chapter in chapters
    )
    return ";FFMETADATA1\n" + "".join(blocks)


def _time_range(chapter: media_pb2.Chapter) -> TimeRange:
    return TimeRange(chapter.start.ToTimedelta().total_seconds(), chapter.end.ToTimedelta().total_seconds())


def _subtract(chapter: Chapter, gap: TimeRange) -> list[Chapter]:
    if gap.end <= chapter.time_range.start or gap.start >= chapter.time_range.end:
        return [chapter]
    parts = (TimeRange(chapter.time_range.start, gap.start), TimeRange(gap.end, chapter.time_range.end))
    return [Chapter(chapter.title, part) for part in parts if part.length > 0]
