"""Subtitles: read from what sites offer, written as people want them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.cuts import Cut, TimeRange
from reelhaul_fetcher.model.selection import same_language

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


Info = dict[str, Any]
_Forms = Mapping[str, list[Info]]

# Each is fetched and becomes up to four files.
_MAX_TRACKS = 60
_HEARD = "-orig"


@dataclass(frozen=True, slots=True)
class SubtitleTrack:
    """A track offered: yt-dlp's *key* of it, whether people wrote it, and the *forms* it comes in."""

    key: str
    manual: bool
    forms: list[Info]

    @property
    def language(self) -> str:
        """Its language as BCP-47."""
        return self.key.removesuffix(_HEARD)


def pick(info: Info, asked: FormatSpec.Subtitles) -> list[tuple[str, SubtitleTrack | None]]:
    """Each language asked, and the track to take for it; None where none is offered."""
    written = {} if asked.kinds == asked.AUTO else dict(info.get("subtitles") or {})
    written.pop("live_chat", None)
    heard = {} if asked.kinds == asked.MANUAL else _heard(info)
    spoken = str(info.get("language") or "")
    picked: dict[tuple[str, bool], tuple[str, SubtitleTrack | None]] = {}
    for language in asked.languages or ["original"]:
        if language == "all":
            found = [SubtitleTrack(key, True, forms) for key, forms in written.items()]
            found += [SubtitleTrack(key, False, forms) for key, forms in heard.items()]
        else:
            found = _matching(written, heard, language, spoken)
        for source in found[:_MAX_TRACKS]:
            picked.setdefault((source.key, source.manual), (source.language, source))
        if not found:
            picked.setdefault((language, False), (language, None))
    return list(picked.values())


def site_translation(info: Info, source: SubtitleTrack, language: str) -> SubtitleTrack | None:
    """The site's own translation of *source* into *language*; None where it has none."""
    offered: _Forms = info.get("automatic_captions") or {}
    for key, forms in offered.items():
        if key.endswith(_HEARD):
            continue
        # "de-en" is German, from the subtitles that people wrote in English.
        ending = f"-{source.key}" if source.manual else ""
        target = key.removesuffix(ending)
        if key.endswith(ending) and same_language(target, language):
            return SubtitleTrack(key, False, [_asking_for(target, key, form) for form in forms])
    return None


def _asking_for(target: str, key: str, form: Info) -> Info:
    """*form* with the language that YouTube knows in its URL, not yt-dlp's key of it."""
    return {**form, "url": str(form.get("url") or "").replace(f"tlang={key}", f"tlang={target}")}


def _heard(info: Info) -> dict[str, list[Info]]:
    """Tracks of speech recognition; without those that the site's machine translated."""
    tracks: _Forms = info.get("automatic_captions") or {}
    originals = {key: forms for key, forms in tracks.items() if key.endswith(_HEARD)}
    if originals:
        return originals
    spoken = str(info.get("language") or "")
    return {key: forms for key, forms in tracks.items() if not spoken or same_language(key, spoken)}


def _matching(written: _Forms, heard: _Forms, language: str, spoken: str) -> list[SubtitleTrack]:
    """The one track for *language*, what people wrote before what was heard; or none."""
    for tracks, manual in ((written, True), (heard, False)):
        if (key := _match(tracks, language, spoken)) is not None:
            return [SubtitleTrack(key, manual, tracks[key])]
    return []


def _match(tracks: _Forms, language: str, spoken: str) -> str | None:
    """The track for *language*; the exact one before a kind of it."""
    if language == "original":
        originals = [key for key in tracks if key.endswith(_HEARD)]
        if originals or (len(tracks) == 1 and not spoken):
            return (originals or list(tracks))[0]
        if not spoken:
            # Nothing tells which is spoken; sites put their own first.
            return next(iter(tracks), None)
        language = spoken
    exact = [key for key in (language, f"{language}{_HEARD}") if key in tracks]
    return next(iter(exact or [key for key in tracks if same_language(key, language)]), None)
