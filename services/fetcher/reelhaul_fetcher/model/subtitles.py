"""Subtitles: read from what sites offer, written as people want them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.cuts import Cut, TimeRange

Format = FormatSpec.Subtitles.Format

#: File extension of each format.
EXTENSION: dict[Format.ValueType, str] = {
    Format.SRT: "srt",
    Format.VTT: "vtt",
    Format.TXT: "txt",
    Format.JSON: "json",
}

_TIMING = re.compile(r"((?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})\s+-->\s+((?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3})")
_TAG = re.compile(r"<[^>]*>")
# A pause of this length begins a new paragraph of a transcript.
_PARAGRAPH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Cue:
    """A line shown from *start* to *end*, in seconds."""

    start: float
    end: float
    text: str


def read(text: str, extension: str) -> list[Cue]:
    """The cues of a subtitle file. ValueError if it holds none that can be read."""
    cues = _read_json3(text) if extension == "json3" else _read_timed(text)
    if not cues:
        raise ValueError(f"no cues in this {extension} file")
    return cues


def without_rolling(cues: Iterable[Cue]) -> list[Cue]:
    """*cues* of speech recognition without lines shown again while the next one rolls in."""
    shown: list[Cue] = []
    last = ""
    for cue in cues:
        lines = [line.strip() for line in cue.text.splitlines() if line.strip()]
        fresh = [line for line in lines if line != last]
        if not fresh:
            continue
        last = fresh[-1]
        if shown and shown[-1].end > cue.start:
            shown[-1] = replace(shown[-1], end=cue.start)
        shown.append(replace(cue, text="\n".join(fresh)))
    return shown


def moved(cues: Iterable[Cue], cut: Cut) -> list[Cue]:
    """*cues* where they are after *cut*; without those of which nothing is left."""
    if not cut.cuts:
        return list(cues)
    places = ((cue, cut.moved(TimeRange(cue.start, cue.end))) for cue in cues)
    return [Cue(place.start, place.end, cue.text) for cue, place in places if place]


def write(cues: Iterable[Cue], asked: Format.ValueType) -> str:
    """*cues* as a file of the format *asked*."""
    writers = {Format.SRT: _srt, Format.VTT: _vtt, Format.TXT: _txt, Format.JSON: _json}
    return writers[asked](list(cues))


def _read_timed(text: str) -> list[Cue]:
    """WebVTT and SubRip: both are blocks with a timing line."""
    cues = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")):
        lines = block.strip("\n").split("\n")
        for place, line in enumerate(lines):
            if timing := _TIMING.search(line):
                said = "\n".join(html.unescape(_TAG.sub("", li)).strip() for li in lines[place + 1 :]).strip()
                if said:
                    cues.append(Cue(_seconds(timing[1]), _seconds(timing[2]), said))
                break
    return cues


def _read_json3(text: str) -> list[Cue]:
    """The form in which YouTube gives speech recognition without rolling lines."""
    cues = []
    for event in json.loads(text).get("events", ()):
        said = "".join(segment.get("utf8", "") for segment in event.get("segs", ())).strip()
        if said and not event.get("aAppend"):
            start = event.get("tStartMs", 0) / 1000
            cues.append(Cue(start, start + event.get("dDurationMs", 0) / 1000, said))
    return cues


def _seconds(stamp: str) -> float:
    hours, minutes, seconds = ["0", *stamp.replace(",", ".").split(":")][-3:]
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _stamp(seconds: float, comma: str) -> str:
    whole = round(seconds * 1000)
    hours, rest = divmod(whole, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{comma}{rest % 1000:03}"


def _srt(cues: list[Cue]) -> str:
    return "".join(
        f"{number}\n{_stamp(cue.start, ',')} --> {_stamp(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def _vtt(cues: list[Cue]) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_stamp(cue.start, '.')} --> {_stamp(cue.end, '.')}\n{html.escape(cue.text, quote=False)}\n\n"
        for cue in cues
    )


def _txt(cues: list[Cue]) -> str:
    paragraphs: list[list[str]] = []
    before = float("-inf")
    for cue in cues:
        if cue.start - before > _PARAGRAPH_SECONDS:
            paragraphs.append([])
        paragraphs[-1].append(" ".join(cue.text.split()))
        before = cue.end
    return "\n\n".join(" ".join(lines) for lines in paragraphs) + "\n"


def _json(cues: list[Cue]) -> str:
    told = [{"start": round(c.start, 3), "end": round(c.end, 3), "text": c.text} for c in cues]
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"
