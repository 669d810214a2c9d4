"""Field names: what flat requests call the fields that JobService validates by their paths."""

from __future__ import annotations

import re

# Fields that keep their name, or only lose their prefix, are not listed.
_FLAT_NAMES = {
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


def flat_name(field: str) -> str:
    """Return what a CreateDownloadRequest calls *field* of a CreateJobRequest."""
    return _FLAT_NAMES.get(field) or _PREFIX.sub("", field)
