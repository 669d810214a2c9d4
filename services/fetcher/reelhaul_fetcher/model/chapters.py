"""Chapters: those of the media, those that a cut leaves, and sponsored stretches as chapters among them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import MediaInfo
from reelhaul_fetcher.model.cuts import Cut, TimeRange

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "=;#\\"} | {"\n": " ", "\r": " "})
_MAX_TITLE = 200


@dataclass(frozen=True, slots=True)
class Chapter:
    """A named stretch, in seconds."""

    title: str
    time_range: TimeRange


def from_media(media: MediaInfo) -> list[Chapter]:
    """The chapters of *media*; the end of the last may be open."""
    marks = [Chapter(chapter.title, TimeRange(*_ends(chapter))) for chapter in media.chapters]
    starts = [*(mark.time_range.start for mark in marks[1:]), math.inf]
    return [
        mark
        if mark.time_range.end > mark.time_range.start
        else Chapter(mark.title, TimeRange(mark.time_range.start, start))
        for mark, start in zip(marks, starts, strict=bool(marks))
    ]


def whole(title: str) -> Chapter:
    """All of the media as one chapter: what is below sponsored stretches where there is no other."""
    return Chapter(title, TimeRange(0.0, math.inf))


def overlay(base: Sequence[Chapter], over: Iterable[Chapter]) -> list[Chapter]:
    """*base* with the marks *over* it: where one of them is, it replaces what is below."""
    below = list(base)
    above = sorted(over, key=lambda mark: mark.time_range.start)
    for mark in above:
        below = [part for one in below for part in _cleared(one, mark.time_range)]
    return sorted([*below, *above], key=lambda mark: mark.time_range.start)


def apply_cut(marks: Iterable[Chapter], cut: Cut, duration: float) -> list[Chapter]:
    """*marks* as they are after *cut*, within the *duration* of the result."""
    moved = ((mark.title, cut.map_range(mark.time_range)) for mark in marks)
    ended = (Chapter(title, TimeRange(span.start, min(span.end, duration))) for title, span in moved if span)
    return [mark for mark in ended if mark.time_range.end > mark.time_range.start]


def to_ffmetadata(marks: Iterable[Chapter]) -> str:
    """*marks* in the form that ffmpeg reads."""
    blocks = (
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={round(mark.time_range.start * 1000)}\n"
        f"END={round(mark.time_range.end * 1000)}\ntitle={mark.title[:_MAX_TITLE].translate(_SPECIAL)}\n"
        for mark in marks
    )
    return ";FFMETADATA1\n" + "".join(blocks)


def _ends(chapter: media_pb2.Chapter) -> tuple[float, float]:
    return chapter.start.ToTimedelta().total_seconds(), chapter.end.ToTimedelta().total_seconds()


def _cleared(mark: Chapter, gone: TimeRange) -> list[Chapter]:
    """What is left of *mark* beside *gone*."""
    if gone.end <= mark.time_range.start or gone.start >= mark.time_range.end:
        return [mark]
    parts = (TimeRange(mark.time_range.start, gone.start), TimeRange(gone.end, mark.time_range.end))
    return [Chapter(mark.title, part) for part in parts if part.end > part.start]
