"""Subtitles: parses the tracks of a site and renders them."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.cuts import Cut, TimeRange
from reelhaul_fetcher.model.site_limits import MAX_SECONDS, clean, number

Format = FormatSpec.Subtitles.Format
#: yt-dlp's info dictionary.
Info = dict[str, Any]

#: File extension of each format.
EXTENSION: dict[Format.ValueType, str] = {
    Format.SRT: "srt",
    Format.VTT: "vtt",
    Format.TXT: "txt",
    Format.JSON: "json",
}

# Both patterns take linear time: the digits of the hours are bounded, and a tag ends where the next begins.
_TIME = r"((?:\d{1,6}:)?\d{1,2}:\d{2}[.,]\d{1,3})"
_TIMING = re.compile(rf"{_TIME}\s+-->\s+{_TIME}")
_TAG = re.compile(r"<[^<>]*>")
# Of the cues of a track: a day of speech has half as much, and a translation must fit into a message.
_MAX_CHARACTERS = 2 * 1024 * 1024
# A pause of this length begins a new paragraph of a transcript.
_PARAGRAPH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Cue:
    """Text shown from *start* to *end*, in seconds."""

    start: float
    end: float
    text: str


def parse(text: str, extension: str) -> list[Cue]:
    """Return the cues of a subtitle file that can be shown: at a valid time, with text that can be written.

    Raises ValueError if it has none, or more text than any video.
    """
    parsed = _parse_json3(text) if extension == "json3" else _parse_timed_blocks(text)
    cues = [replace(cue, text=clean(cue.text)) for cue in parsed if _is_valid_time(cue)]
    if not cues:
        raise ValueError(f"no cues in this {extension} file")
    if sum(len(cue.text) for cue in cues) > _MAX_CHARACTERS:
        raise ValueError(f"this {extension} file has more than {_MAX_CHARACTERS} characters")
    return cues


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
        if result and result[-1].end > cue.start:
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


def _parse_timed_blocks(text: str) -> list[Cue]:
    """Parse WebVTT or SubRip: both are blocks with a timing line."""
    cues = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")):
        lines = block.strip("\n").split("\n")
        for index, line in enumerate(lines):
            if timing := _TIMING.search(line):
                texts = (html.unescape(_TAG.sub("", line)).strip() for line in lines[index + 1 :])
                if content := "\n".join(texts).strip():
                    cues.append(Cue(_parse_time(timing[1]), _parse_time(timing[2]), content))
                break
    return cues


def _parse_json3(text: str) -> list[Cue]:
    """Parse YouTube's JSON format of speech recognition; it has no rolling lines."""
    try:
        return [cue for event in json.loads(text).get("events", ()) if (cue := _event_to_cue(event))]
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError("this is no json3 file") from error


def _event_to_cue(event: Info) -> Cue | None:
    content = "".join(segment.get("utf8", "") for segment in event.get("segs", ())).strip()
    start = number(event.get("tStartMs", 0), MAX_SECONDS * 1000)
    length = number(event.get("dDurationMs", 0), MAX_SECONDS * 1000)
    if not content or event.get("aAppend") or start is None or length is None:
        return None
    return Cue(start / 1000, (start + length) / 1000, content)


def _parse_time(timestamp: str) -> float:
    """Return *timestamp* in seconds; NaN if its hours have more digits than a number may have."""
    hours, minutes, seconds = ["0", *timestamp.replace(",", ".").split(":")][-3:]
    try:
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (ValueError, OverflowError):
        return math.nan


def _is_valid_time(cue: Cue) -> bool:
    return 0 <= cue.start <= MAX_SECONDS and 0 <= cue.end <= 2 * MAX_SECONDS


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
