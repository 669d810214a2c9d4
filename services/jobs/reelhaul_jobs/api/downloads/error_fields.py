"""Whose fault it is, in the words of the flat request: JobService's field names are not its callers'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from reelhaul_jobs.api.error_paths import renamed
from reelhaul_runtime.errors import ReelhaulError

# Fields that keep their name, or lose their prefix only, are not here.
_FLAT = {
    "name": "job_id",
    "skip": "page",
    "start_time": "created_after",
    "end_time": "created_before",
    "order_by": "order",
    "job.ttl": "ttl_seconds",
    "job.kind": "playlist",
    "job.expansion": "playlist",
    "job.expansion.max_entries": "max_entries",
    "job.format": "format",
    "job.format.media_kind": "audio_only",
    "job.format.max_height": "quality",
    "job.format.smallest": "quality",
    "job.format.min_height": "min_quality",
    "job.format.container": "format",
    "job.format.video_codecs": "video_codec",
    "job.format.max_frame_rate": "max_fps",
    "job.format.dynamic_range": "hdr",
    "job.format.audio": "format",
    "job.format.audio.format": "format",
    "job.format.audio.bitrate_kbps": "audio_bitrate",
    "job.format.audio.languages": "audio_language",
    "job.format.subtitles": "subtitles",
    "job.format.subtitles.languages": "subtitle_languages",
    "job.format.subtitles.formats": "subtitle_formats",
    "job.format.subtitles.kinds": "subtitle_kinds",
    "job.format.subtitles.translate_to": "translate_to",
    "job.format.subtitles.embed": "embed_subtitles",
    "job.format.subtitles.required": "require_subtitles",
    "job.format.sponsorblock": "sponsorblock",
    "job.format.sponsorblock.mode": "sponsorblock",
    "job.format.sponsorblock.categories": "sponsorblock_categories",
    "job.format.clip": "start_seconds",
    "job.format.clip.start": "start_seconds",
    "job.format.clip.end": "end_seconds",
    "job.format.live": "live",
    "job.format.live.mode": "live",
    "job.format.max_duration": "max_duration_seconds",
}
_PREFIX = re.compile(r"^job\.(format\.)?")


@contextmanager
def with_flat_field_names() -> Iterator[None]:
    """Raise JobService's failures with the flat request's field names in them."""
    try:
        yield
    except ReelhaulError as error:
        raise flattened(error) from error


def flattened(error: ReelhaulError) -> ReelhaulError:
    """*error* with the flat request's field names."""
    return renamed(error, flat_name)


def flat_name(field: str) -> str:
    """What *field* of a CreateJobRequest or ListJobsRequest is called in the flat request."""
    return _FLAT.get(field) or _PREFIX.sub("", field)
