"""SponsorBlock client: segments of a video that users marked as sponsored or otherwise skippable.

Missing segments are a warning, never a failure.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from yt_dlp.networking import Request
from yt_dlp.utils import YoutubeDLError

from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model.site_limits import MAX_SECONDS, MAX_TITLE, number, shorten
from reelhaul_fetcher.model.timing.chapters import Chapter
from reelhaul_fetcher.model.timing.cuts import TimeRange
from reelhaul_fetcher.ytdlp.downloader import Downloader, read_body

_MAX_RESPONSE_BYTES = 1024 * 1024
# Of all entries for one video: the work of an edit grows with chapters and cues times segments.
_MAX_SEGMENTS = 50
_TIMEOUT_SECONDS = 10
# Segments of a version whose duration differs by more seconds are of another cut of the video.
_MAX_DURATION_DIFFERENCE = 2

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
class Segments:
    """The segments found, as chapters, or a warning that there are none."""

    chapters: tuple[Chapter, ...] = ()
    warnings: tuple[MediaWarning, ...] = ()


def fetch_segments(
    downloader: Downloader, media: MediaInfo, spec: FormatSpec.SponsorBlock, base_url: str
) -> Segments:
    """Return the segments of *media* in the categories of *spec*, from the service at *base_url*."""
    if media.extractor != "youtube":
        return _missing("SponsorBlock supports videos of YouTube only")
    categories = set(spec.categories) or {"sponsor"}
    actions = ["skip"] if spec.mode == FormatSpec.SponsorBlock.REMOVE else ["skip", "poi", "chapter"]
    query = urlencode({
        "service": "YouTube",
        "categories": json.dumps(sorted(categories)),
        "actionTypes": json.dumps(actions),
    })  # fmt: skip
    # Four digits of the hash: the service does not learn which video it is.
    prefix = hashlib.sha256(media.media_id.encode()).hexdigest()[:4]
    url = f"{base_url.rstrip('/')}/api/skipSegments/{prefix}?{query}"
    request = Request(url, extensions={"timeout": _TIMEOUT_SECONDS})
    try:
        with downloader.logging_paused():
            videos = json.loads(read_body(downloader, request, _MAX_RESPONSE_BYTES))
        chapters = _to_chapters(videos, media, categories)
    except (
        YoutubeDLError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        if getattr(error, "status", 0) == 404:
            return _missing("SponsorBlock has no segments of this video")
        return _missing("SponsorBlock did not respond")
    return Segments(tuple(chapters)) if chapters else _missing("SponsorBlock has no segments of this video")


def _to_chapters(videos: list[dict[str, Any]], media: MediaInfo, categories: set[str]) -> list[Chapter]:
    duration = media.duration.ToTimedelta().total_seconds()
    chapters: list[Chapter] = []
    for video in videos:
        if video["videoID"] != media.media_id:
            continue
        for segment in video["segments"][: _MAX_SEGMENTS - len(chapters)]:
            start, end = (number(second, MAX_SECONDS) for second in segment["segment"])
            if start is None or end is None:
                continue
            other = number(segment.get("videoDuration"), MAX_SECONDS)
            is_of_other_cut = other and duration and abs(other - duration) > _MAX_DURATION_DIFFERENCE
            if segment["category"] in categories and not is_of_other_cut and end >= start:
                # A highlight is a point; a chapter has a length.
                time_range = TimeRange(start, end if end > start else start + 1.0)
                chapters.append(Chapter(_title(segment), time_range))
    return chapters


def _title(segment: dict[str, Any]) -> str:
    category = str(segment["category"])
    if category == "chapter":
        return shorten(segment.get("description") or "Chapter", MAX_TITLE)[0]
    return f"[SponsorBlock] {_TITLES.get(category, category)}"


def _missing(text: str) -> Segments:
    return Segments(warnings=(MediaWarning(reason=MediaWarning.SPONSORBLOCK_MISSING, message=text),))
