"""Sponsored stretches, as SponsorBlock's users marked them. Their lack is a warning, not an end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from yt_dlp.networking import Request
from yt_dlp.utils import YoutubeDLError

from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.model.chapters import Chapter
from reelhaul_fetcher.model.cuts import TimeRange
from reelhaul_fetcher.ytdlp.downloader import Downloader, body

_MAX_ANSWER = 1024 * 1024
_MAX_STRETCHES = 50
_TIMEOUT_SECONDS = 10
_TITLES = {
    "sponsor": "Sponsor",
    "intro": "Intermission",
    "outro": "Endcards",
    "selfpromo": "Self-promotion",
    "preview": "Preview",
    "hook": "Hook",
    "filler": "Filler",
    "interaction": "Interaction reminder",
    "music_offtopic": "Without music",
    "poi_highlight": "Highlight",
}


@dataclass(frozen=True, slots=True)
class Stretches:
    """What was found: marks, and why there is none where that is so."""

    marks: tuple[Chapter, ...] = ()
    warnings: tuple[Warned, ...] = ()


def stretches(
    downloader: Downloader, media: MediaInfo, asked: FormatSpec.SponsorBlock, base: str
) -> Stretches:
    """The stretches of *media* in the categories *asked*, by the service at *base*."""
    if media.extractor != "youtube":
        return _none("SponsorBlock knows YouTube's videos only")
    wanted = set(asked.categories) or {"sponsor"}
    kinds = ["skip"] if asked.mode == FormatSpec.SponsorBlock.REMOVE else ["skip", "poi", "chapter"]
    query = urlencode({
        "service": "YouTube",
        "categories": json.dumps(sorted(wanted)),
        "actionTypes": json.dumps(kinds),
    })  # fmt: skip
    # Four letters of the digest: the service is not told which video it is.
    prefix = hashlib.sha256(media.media_id.encode()).hexdigest()[:4]
    request = Request(
        f"{base.rstrip('/')}/api/skipSegments/{prefix}?{query}", extensions={"timeout": _TIMEOUT_SECONDS}
    )
    try:
        with downloader.unnoted():
            found = json.loads(body(downloader, request, _MAX_ANSWER))
        marks = _marks(found, media, wanted)
    except (YoutubeDLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        if getattr(error, "status", 0) == 404:
            return _none("SponsorBlock knows nothing of this video")
        return _none("SponsorBlock did not answer")
    return Stretches(tuple(marks)) if marks else _none("SponsorBlock knows nothing of this video")


def _marks(found: list[dict[str, Any]], media: MediaInfo, wanted: set[str]) -> list[Chapter]:
    seconds = media.duration.ToTimedelta().total_seconds()
    marks = []
    for video in found:
        if video["videoID"] != media.media_id:
            continue
        for told in video["segments"][:_MAX_STRETCHES]:
            start, end = (max(0.0, float(moment)) for moment in told["segment"])
            # Of another cut of the video than this one: its moments are elsewhere.
            stale = told.get("videoDuration") and seconds and abs(told["videoDuration"] - seconds) > 2
            if told["category"] in wanted and not stale and end >= start:
                # A highlight is a point; a chapter has a length.
                marks.append(Chapter(_title(told), TimeRange(start, end if end > start else start + 1.0)))
    return marks


def _title(told: dict[str, Any]) -> str:
    category = str(told["category"])
    if category == "chapter":
        return str(told.get("description") or "Chapter")
    return f"[SponsorBlock] {_TITLES.get(category, category)}"


def _none(text: str) -> Stretches:
    return Stretches(warnings=(Warned(reason=Warned.SPONSORBLOCK_MISSING, message=text),))
