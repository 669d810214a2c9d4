"""Parsers of WebVTT and SubRip."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from reelhaul_fetcher.model.subtitle_formats.text import LINE_BREAK, unescape
from reelhaul_fetcher.model.timing import clocks
from reelhaul_fetcher.model.timing.cues import Cue

# As lenient as players: hours and fractions may be missing, and points may be commas.
_TIME = r"(-?(?:\d{1,9}\s?:\s?)?\d{1,3}\s?:\s?\d{1,2}(?:\s?[.,:]\s?\d{1,9})?)"
_TIMESTAMP = re.compile(rf"\s{{0,9}}{_TIME}\s{{0,9}}")
_TIMING = re.compile(rf"{_TIME}\s{{0,9}}--?>\s{{0,9}}{_TIME}")
# Other text in angle brackets is no markup: "<3", "a < b", "<laughs>".
_MARKUP = re.compile(
    r"</?(?:[biuscvpa]|br|ruby|rt|rp|lang|font|span|div|em|strong|small|big|strike|center|sub|sup)"
    r"(?=[\s./>])[^<>]*>|<\d[\d:.]*>",
    re.IGNORECASE,
)
_HTML_BREAK = re.compile(r"<br\s{0,9}/?>", re.IGNORECASE)
# Style overrides of ASS, which SubRip files contain too.
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
# Header of a further segment. The last line of the previous segment may lack its line break.
_HEADER = re.compile(
    r"^\ufeff?WEBVTT(?:[ \t][^\n]{0,200})?(?=\nX-TIMESTAMP-MAP=)"
    r"|^\ufeff?WEBVTT[ \t]{0,9}$|\ufeff?WEBVTT[ \t]{0,9}(?=\nX-TIMESTAMP-MAP=)",
    re.MULTILINE,
)
_HEADER_CHARACTERS = 4096
_MPEG_TIME, _LOCAL_TIME = re.compile(r"MPEGTS:(\d{1,12})"), re.compile(r"LOCAL:([\d:.]{1,20})")
_MPEG_TICKS_PER_SECOND = 90_000
# Longest gap between the parts of a cue that crosses the end of a segment, in seconds.
_JOIN_SECONDS = 0.001


def parse(text: str, _: str) -> Iterator[Cue]:
    """Yield the cues of *text*, WebVTT, or the segments of an HLS playlist one after another.

    Each segment may count time from another moment, given by its X-TIMESTAMP-MAP (RFC 8216, 3.5). A cue that
    crosses the end of a segment is repeated or continued in the next segment.
    """
    first, *others = _HEADER.split(_normalize(text))
    # The header of a single file is before its first cue, like any other text.
    parts = others if others and not first.strip("\ufeff\n") else [first, *others]
    if len(parts) == 1:
        yield from _parse_blocks(parts[0], ends_at_blank_line=True)
        return
    first_offset = clock_offset(parts[0]) or 0.0
    last: dict[str, Cue] = {}
    for part in parts:
        shift = clocks.wrap((clock_offset(part) or 0.0) - first_offset)
        for cue in _parse_blocks(part, ends_at_blank_line=True):
            cue = Cue(cue.start + shift, cue.end + shift, cue.text)
            previous = last.get(cue.text)
            if previous and previous.start <= cue.start <= previous.end + _JOIN_SECONDS:
                last[cue.text] = replace(previous, end=max(previous.end, cue.end))
                continue
            if previous:
                yield previous
            last[cue.text] = cue
    yield from last.values()


def parse_subrip(text: str, _: str) -> Iterator[Cue]:
    """Yield the cues of *text*, SubRip."""
    return _parse_blocks(_normalize(text), ends_at_blank_line=False)


def has_times(text: str) -> bool:
    """Return whether *text* has a line with the times of a cue."""
    return any(_find_timing(line.strip()) for line in LINE_BREAK.split(text))


def parse_time(timestamp: str) -> float:
    """Return *timestamp* ("01:02:03,400") in seconds; NaN if it is none."""
    found = _TIMESTAMP.fullmatch(timestamp)
    return _to_seconds(found[1]) if found else math.nan


def _normalize(text: str) -> str:
    return LINE_BREAK.sub("\n", text)


def _parse_blocks(text: str, *, ends_at_blank_line: bool) -> Iterator[Cue]:
    """Yield the cues of *text*. The text of a cue ends at the next times, or also at a blank line."""
    times: tuple[float, float] | None = None
    lines: list[str] = []
    numbered: bool | None = None
    for line in text.split("\n"):
        stripped = line.strip(" \t\ufeff")
        if timing := _find_timing(stripped):
            if numbered is None:
                numbered = _ends_with_number(lines)
            if times:
                yield Cue(*times, _plain(lines, numbered=numbered))
            times, lines = timing, []
        elif not line and ends_at_blank_line and times:
            yield Cue(*times, _plain(lines))
            times, lines = None, []
        else:
            lines.append(stripped)
    if times:
        yield Cue(*times, _plain(lines))


def _find_timing(line: str) -> tuple[float, float] | None:
    """Return start and end in seconds if *line* has times; the start twice without an end, NaN if invalid."""
    if timing := _TIMING.match(line):
        return _to_seconds(timing[1]), _to_seconds(timing[2])
    if "-->" not in line or not line[:1].isdigit():
        return None
    start = parse_time(line.partition("-->")[0])
    return start, start


def _to_seconds(timestamp: str) -> float:
    text = "".join(timestamp.split()).replace(",", ".")
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    clock, _, fraction = text.partition(".")
    parts = clock.split(":")
    if len(parts) == 4:
        fraction = parts.pop()
    hours, minutes, seconds = ["0", *parts][-3:]
    return sign * (int(hours) * 3600 + int(minutes) * 60 + float(f"{int(seconds)}.{fraction or 0}"))


def _ends_with_number(lines: Iterable[str]) -> bool:
    last = ""
    for line in lines:
        last = line or last
    return last.isdecimal()


def _plain(lines: list[str], *, numbered: bool = False) -> str:
    """Return the text of *lines* without markup; if *numbered*, without the number of the next cue."""
    if numbered:
        while lines and not lines[-1]:
            lines.pop()
        if lines and lines[-1].isdecimal():
            lines.pop()
    text = _HTML_BREAK.sub("\n", "\n".join(lines))
    return unescape(_OVERRIDE.sub("", _MARKUP.sub("", text)))


def clock_offset(segment: str) -> float | None:
    """Return the MPEG time in seconds of time 0 of *segment*, by its X-TIMESTAMP-MAP; None without one."""
    header = _normalize(segment[:_HEADER_CHARACTERS]).lstrip("\ufeff\n").partition("\n\n")[0]
    mpeg, local = _MPEG_TIME.search(header), _LOCAL_TIME.search(header)
    if "X-TIMESTAMP-MAP=" not in header or not mpeg or not local:
        return None
    seconds = parse_time(local[1])
    return int(mpeg[1]) / _MPEG_TICKS_PER_SECOND - seconds if math.isfinite(seconds) else None
