"""Cues of subtitles: order, times, cuts, and output formats."""

from __future__ import annotations

import html
import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.site_limits import MAX_SECONDS, clean
from reelhaul_fetcher.model.timing.cuts import Cut, TimeRange

Format = FormatSpec.Subtitles.Format

#: File extension of each format.
EXTENSION: dict[Format.ValueType, str] = {
    Format.SRT: "srt",
    Format.VTT: "vtt",
    Format.TXT: "txt",
    Format.JSON: "json",
}

# Seconds for which a cue without an end is shown: at most, unless the next one begins earlier, and at least.
_DEFAULT_SECONDS, _MIN_SECONDS = 5.0, 0.5
# Cues that end, or begin, this little after the end of the media are usual, and cause no warning.
_USUAL_OVERLAP_SECONDS, _USUAL_DELAY_SECONDS = _DEFAULT_SECONDS, 1.0
# A pause of this length begins a new paragraph of a transcript.
_PARAGRAPH_SECONDS = 2.0
_LINE_BREAK = re.compile(r"\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Control characters and byte order marks: no player shows them, and some stop at them.
_INVISIBLE = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0), 0xFEFF, 0xFFFE, 0xFFFF)) | {0x09: " "}


@dataclass(frozen=True, slots=True)
class Cue:
    """Text shown from *start* to *end*, in seconds."""

    start: float
    end: float
    text: str


def complete(cues: Iterable[Cue]) -> tuple[list[Cue], int]:
    """Return *cues* that can be shown, sorted by start, and how many of *cues* had a wrong time.

    A cue that does not end after its start lasts until the next one. Cues at impossible times, without text,
    and repetitions are left out.
    """
    usable, wrong = [], 0
    for cue in cues:
        if not (0 <= max(cue.start, cue.end) <= 2 * MAX_SECONDS and -MAX_SECONDS < cue.start <= MAX_SECONDS):
            wrong += 1
        elif text := clean_text(cue.text):
            wrong += cue.start < 0 or cue.end < cue.start
            usable.append(Cue(max(0.0, round(cue.start, 3)), round(cue.end, 3), text))
    usable.sort(key=lambda cue: cue.start)
    starts = [cue.start for cue in usable]
    result = dict[Cue, None]()
    for cue in usable:
        if cue.end <= cue.start:
            later = bisect_right(starts, cue.start)
            next_start = starts[later] if later < len(starts) else math.inf
            end = max(min(next_start, cue.start + _DEFAULT_SECONDS), cue.start + _MIN_SECONDS)
            cue = replace(cue, end=round(end, 3))
        result[cue] = None
    return list(result), wrong


def clean_text(text: str) -> str:
    """Return the lines of *text* that are not blank, without invisible characters."""
    lines = (line.translate(_INVISIBLE).strip() for line in _LINE_BREAK.split(clean(text)))
    return "\n".join(line for line in lines if line)


def limit(cues: Iterable[Cue], duration: float) -> tuple[list[Cue], int]:
    """Return *cues* within the *duration* of the media in seconds, and how many did not fit.

    Cues that begin after the end are left out; cues that last longer end with the media.
    """
    result, misfits = [], 0
    for cue in cues:
        misfits += cue.end > duration + _USUAL_OVERLAP_SECONDS or cue.start > duration + _USUAL_DELAY_SECONDS
        if round(duration, 3) > cue.start:
            result.append(replace(cue, end=min(cue.end, round(duration, 3))))
    return result, misfits


def most_begin_before(cues: Iterable[Cue], duration: float) -> bool:
    """Return whether most of *cues* begin within *duration* seconds; otherwise the duration is wrong."""
    fits = [cue.start < duration for cue in cues]
    return sum(fits) * 2 > len(fits)


def move(cues: Iterable[Cue], seconds: float) -> list[Cue]:
    """Return *cues* delayed by *seconds*, without those that end before 0."""
    moved = (Cue(max(0.0, cue.start + seconds), cue.end + seconds, cue.text) for cue in cues)
    return [replace(cue, start=round(cue.start, 3), end=round(cue.end, 3)) for cue in moved if cue.end > 0]


def on_presentation_time(cues: Iterable[Cue], start: float, length: float) -> list[Cue]:
    """Return the *cues* of a period of a presentation at their times in the presentation.

    *start* and *length* of the period are in seconds. Some sites count times from the start of the period,
    and some from that of the presentation.
    """
    stated = list(cues)
    is_absolute = any(cue.end > length + _USUAL_DELAY_SECONDS for cue in stated)
    if is_absolute and all(cue.start >= start - _USUAL_DELAY_SECONDS for cue in stated):
        return stated
    return move(stated, start)


def remove_rolling_lines(cues: Iterable[Cue]) -> list[Cue]:
    """Return *cues* of speech recognition without lines repeated while the next one rolls in."""
    result: list[Cue] = []
    last = ""
    for cue in cues:
        lines = [line.strip() for line in cue.text.splitlines() if line.strip()]
        new_lines = [line for line in lines if line != last]
        if not new_lines:
            continue
        last = new_lines[-1]
        if result and result[-1].start < cue.start < result[-1].end:
            result[-1] = replace(result[-1], end=cue.start)
        result.append(replace(cue, text="\n".join(new_lines)))
    return result


def apply_cut(cues: Iterable[Cue], cut: Cut) -> list[Cue]:
    """Return *cues* at their times after *cut*, without those that it removes."""
    if not cut.removes_something:
        return list(cues)
    mapped = ((cue, cut.map_range(TimeRange(cue.start, cue.end))) for cue in cues)
    return [Cue(span.start, span.end, cue.text) for cue, span in mapped if span]


def render(cues: Iterable[Cue], output: Format.ValueType) -> str:
    """Return *cues* as the text of a file of the format *output*."""
    renderers = {
        Format.SRT: _render_srt,
        Format.VTT: _render_vtt,
        Format.TXT: _render_txt,
        Format.JSON: _render_json,
    }
    return renderers[output](list(cues))


def _format_time(seconds: float, separator: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{separator}{rest % 1000:03}"


def _render_srt(cues: list[Cue]) -> str:
    return "".join(
        f"{number}\n{_format_time(cue.start, ',')} --> {_format_time(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def _render_vtt(cues: list[Cue]) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_format_time(cue.start, '.')} --> {_format_time(cue.end, '.')}\n"
        f"{html.escape(cue.text, quote=False)}\n\n"
        for cue in cues
    )


def _render_txt(cues: list[Cue]) -> str:
    paragraphs: list[list[str]] = []
    last_end = float("-inf")
    for cue in cues:
        if cue.start - last_end > _PARAGRAPH_SECONDS:
            paragraphs.append([])
        paragraphs[-1].append(" ".join(cue.text.split()))
        last_end = cue.end
    return "\n\n".join(" ".join(lines) for lines in paragraphs) + "\n"


def _render_json(cues: list[Cue]) -> str:
    rows = [{"start": round(c.start, 3), "end": round(c.end, 3), "text": c.text} for c in cues]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
