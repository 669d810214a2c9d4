"""Requests as typed dictionaries: a misspelt field, or a word where a number belongs, is an error of mypy.

Fields mean what ``reelhaul.downloads.v1.CreateDownloadRequest`` and ``ListDownloadsRequest`` say; a test
compares them. Fields with a fixed set of words are checked by the server, which lists the valid ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Required, TypedDict, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class DownloadOptions(TypedDict, total=False):
    """What to download, and how: everything but the URL."""

    #: "best", "2160p", "1080p", "720p" … or "worst"; the best that the site offers within it is chosen.
    quality: str
    #: "mp4", "webm", "mkv", or for audio "mp3", "m4a", "opus", "flac", "wav", "ogg".
    format: str
    #: Audio without video.
    audio_only: bool
    #: Fail with FORMAT_UNAVAILABLE instead of delivering less.
    min_quality: str
    #: "h264", "h265", "vp9" or "av1", if offered at that quality.
    video_codec: str
    #: Maximum frames per second.
    max_fps: int
    #: "prefer", "require" or "avoid" high dynamic range.
    hdr: str
    #: Of transcoded audio, 32 to 320 kbit/s.
    audio_bitrate: int
    #: BCP-47 language of the audio, or "original".
    audio_language: str
    #: Subtitles too; implied by each subtitle field.
    subtitles: bool
    #: BCP-47 languages, "original" or "all".
    subtitle_languages: Sequence[str]
    #: "srt", "vtt", "txt" (a transcript) or "json".
    subtitle_formats: Sequence[str]
    #: "manual", "auto" or "both".
    subtitle_kinds: str
    #: BCP-47 language to translate subtitles into.
    translate_to: str
    #: Write the subtitles into the video as well.
    embed_subtitles: bool
    #: Fail if a subtitle is missing.
    require_subtitles: bool
    #: Transcripts only, no media.
    subtitles_only: bool
    #: The thumbnail too.
    thumbnail: bool
    #: The metadata as a JSON file too.
    info_json: bool
    #: "embed" or "split".
    chapters: str
    #: "remove" or "mark".
    sponsorblock: str
    #: Categories of SponsorBlock.
    sponsorblock_categories: Sequence[str]
    #: Start of the section to deliver, in seconds.
    start_seconds: float
    #: End of the section to deliver, in seconds.
    end_seconds: float
    #: "refuse", "wait" or "record".
    live: str
    #: Maximum size in bytes.
    max_size_bytes: int
    #: Maximum duration in seconds.
    max_duration_seconds: float
    #: A job for each entry of the playlist or channel.
    playlist: bool
    #: Maximum number of entries to take.
    max_entries: int
    #: Earliest start; it needs a time zone.
    schedule_time: datetime
    #: "low", "normal" or "high".
    priority: str
    #: Tags of the caller.
    labels: Mapping[str, str]
    #: Seconds to keep the files after the end.
    ttl_seconds: float
    #: Idempotency key, a UUID: the same call again returns the same job. By default the clients set one.
    request_id: str
    #: Check everything and return an estimate, without a job.
    validate_only: bool
    #: Name of cookies at the server.
    cookies: str
    #: Destination that the files are delivered to.
    deliver_to: str


class DownloadRequest(DownloadOptions, total=False):
    """One download of a batch."""

    #: Page or media URL.
    url: Required[str]


class ProbeOptions(TypedDict, total=False):
    """How to probe a URL."""

    #: Maximum number of playlist entries to list.
    max_entries: int
    #: Quality for the estimate.
    quality: str
    #: Format for the estimate.
    format: str
    #: Whether the estimate is for audio without video.
    audio_only: bool
    #: Name of cookies at the server.
    cookies: str


class ListFilter(TypedDict, total=False):
    """Which downloads to list."""

    #: Statuses by name, e.g. "FAILED".
    status: Sequence[str]
    #: Created at or after this time; it needs a time zone.
    created_after: datetime
    #: Created before this time; it needs a time zone.
    created_before: datetime
    #: Text that the URL contains.
    url_contains: str
    #: "newest" or "oldest" first.
    order: str
    #: Batch or playlist.
    batch_id: str


class ListOptions(ListFilter, total=False):
    """Which page of downloads to return."""

    #: Page number, from 1.
    page: int
    #: Maximum number of downloads on the page.
    page_size: int
    #: next_page_token of the page before.
    page_token: str


def build_request(message: type[M], fields: Mapping[str, Any]) -> M:
    """Return a *message* with *fields*, without those that are None.

    Raises TypeError for a field that it does not have, and ValueError, with the name of the field, for a
    value that the field cannot hold.
    """
    known = message.DESCRIPTOR.fields_by_name
    built = message()
    for name, value in fields.items():
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            advice = f": did you mean {similar[0]}?" if similar else ""
            raise TypeError(f"{message.DESCRIPTOR.name} has no field {name}{advice}")
        if value is None:
            continue
        if isinstance(value, datetime) and value.tzinfo is None:
            raise ValueError(f"{name}: {value} has no time zone")
        try:
            built.MergeFrom(message(**{name: value}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    return built
