"""Formats of subtitles that sites send: WebVTT, SubRip, TTML, ASS and SSA, SAMI, YouTube's json3.

The format is detected by the text: names and media types are often wrong. Every parser takes linear time,
skips invalid parts, and resolves no entities, files or addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reelhaul_fetcher.model.subtitle_formats import ass, json3, sami, ttml, webvtt
from reelhaul_fetcher.model.subtitle_formats.text import SubtitlesUnreadable
from reelhaul_fetcher.model.timing import cues
from reelhaul_fetcher.model.timing.cues import Cue

# Characters of the cues of a track: a day of speech has half as many, and a translation must fit into a
# message.
_MAX_CHARACTERS = 2 * 1024 * 1024
# Characters of a file from which its format is detected.
_HEAD_CHARACTERS = 4096
_TTML_ROOT = re.compile(r"<(?:\w{1,32}:)?tt[\s>]")

_Parser = Callable[[str, str], Iterable[Cue]]


@dataclass(frozen=True, slots=True)
class Track:
    """The cues of a file, by start, and how many of its cues had a wrong time."""

    cues: list[Cue]
    wrong: int = 0
    #: Time of the media's clock at time 0 of the cues, in seconds; None if the segments do not state it.
    clock: float | None = None


def parse(text: str, language: str = "") -> Track:
    """Return the cues of *text*, a subtitle file of any known format.

    From a SAMI file in several languages, the cues in *language* are read. Raises SubtitlesUnreadable if it
    has no cues, or more text than any video.
    """
    name, parser = _find_format(text)
    track = Track(*cues.complete(parser(text, language)))
    if not track.cues:
        raise SubtitlesUnreadable(f"no cues in this {name} file")
    if sum(len(cue.text) for cue in track.cues) > _MAX_CHARACTERS:
        raise SubtitlesUnreadable(f"this {name} file has more than {_MAX_CHARACTERS} characters")
    return track


def _find_format(text: str) -> tuple[str, _Parser]:
    head = text[:_HEAD_CHARACTERS].lstrip("\ufeff \t\r\n")
    lower = head.lower()
    if head.startswith("WEBVTT"):
        return "WebVTT", webvtt.parse
    if head.startswith("{"):
        return "json3", json3.parse
    if webvtt.has_times(head):
        return "SubRip", webvtt.parse_subrip
    if "<sami" in lower or "<sync" in lower:
        return "SAMI", sami.parse
    if _TTML_ROOT.search(lower):
        return "TTML", ttml.parse
    if lower.startswith(("<!doctype html", "<html")):
        raise SubtitlesUnreadable("the site sent a page: no cues in it")
    if any(section in lower for section in ("[script info]", "[v4", "[events]")):
        return "ASS", ass.parse
    raise SubtitlesUnreadable("no cues: the file is of no known format")
