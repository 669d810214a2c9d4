"""Chapters: those of the media, after a cut, and with SponsorBlock segments laid over them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import MediaInfo
from reelhaul_fetcher.model.timing.cuts import MIN_SECONDS, Cut, TimeRange

# Characters that ffmpeg's metadata format escapes; line breaks and other control characters become spaces.
_ESCAPES = str.maketrans({c: f"\\{c}" for c in "=;#\\"} | dict.fromkeys((*range(0x20), 0x7F), " "))
_MAX_TITLE = 200
# Sites round the end of a chapter: a shorter overlap causes no warning.
_USUAL_OVERLAP_SECONDS = 2.0
_UNTITLED = "<Untitled Chapter "


@dataclass(frozen=True, slots=True)
class Chapter:
    """A named time range."""

    title: str
    time_range: TimeRange


def from_media(media: MediaInfo, duration: float) -> tuple[list[Chapter], int]:
    """Return the chapters of *media*, of *duration* seconds, and how many of them did not fit.

    Chapters are sorted and do not overlap: each ends where the next one begins, also without an end of its
    own. Empty chapters, and those that begin after the end, are left out.
    """
    stated = (Chapter(chapter.title, _time_range(chapter)) for chapter in media.chapters)
    listed = sorted(stated, key=lambda chapter: chapter.time_range.start)
    next_starts = [*(chapter.time_range.start for chapter in listed[1:]), math.inf]
    result, misfits = [], 0
    for chapter, next_start in zip(listed, next_starts, strict=bool(listed)):
        start, end = chapter.time_range.start, chapter.time_range.end
        fitted = TimeRange(start, min(end if end > start else math.inf, next_start, duration))
        is_shown = fitted.length >= MIN_SECONDS
        # yt-dlp adds one without a name before the first, also if that is not the earliest.
        if not chapter.title.startswith(_UNTITLED):
            misfits += not is_shown or 0 < end < start or end > fitted.end + _USUAL_OVERLAP_SECONDS
        if is_shown:
            result.append(Chapter(chapter.title, fitted))
    return result, misfits


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
