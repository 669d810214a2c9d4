"""Conversion of the media fields of a flat request into a FormatSpec."""

from __future__ import annotations

import math

from google.protobuf import duration_pb2

from reelhaul.downloads.v1.download_service_pb2 import CreateDownloadRequest
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_jobs.api.downloads import choices
from reelhaul_jobs.api.downloads.choices import parse_choice
from reelhaul_runtime.validation.violations import FieldViolations

_SUBTITLE_FIELDS = (
    "subtitles",
    "subtitle_languages",
    "subtitle_formats",
    "subtitle_kinds",
    "translate_to",
    "embed_subtitles",
    "require_subtitles",
    "subtitles_only",
)
_MEDIA_FIELDS = ("quality", "min_quality", "format", "audio_only", "audio_bitrate", "audio_language")
_MAX_SECONDS = 3660 * 86400.0


def format_spec(request: CreateDownloadRequest, violations: FieldViolations) -> FormatSpec:
    """Return the FormatSpec that *request* describes; unknown words and conflicts are violations."""
    spec = FormatSpec(
        thumbnail=request.thumbnail,
        info_json=request.info_json,
        max_size_bytes=request.max_size_bytes,
        max_frame_rate=request.max_fps,
        cookies=request.cookies,
    )
    _set_kind(request, spec, violations)
    _set_picture(request, spec, violations)
    _set_audio(request, spec)
    if any(getattr(request, field) for field in _SUBTITLE_FIELDS):
        _set_subtitles(request, spec.subtitles, violations)
    _set_chapters(request, spec, violations)
    if live := parse_choice(request.live, choices.LIVE, "live", violations):
        spec.live.mode = live
    _set_times(request, spec, violations)
    return spec


def valid_seconds(value: float, field: str, violations: FieldViolations) -> bool:
    """Return whether *value* is a number of seconds; if not, add a violation."""
    if math.isfinite(value) and 0 <= value <= _MAX_SECONDS:
        return True
    violations.add(field, f"{value:g} is not a valid number of seconds")
    return False


def set_duration(
    duration: duration_pb2.Duration, seconds: float, field: str, violations: FieldViolations
) -> None:
    """Write *seconds*, to the microsecond, into *duration*."""
    duration.SetInParent()
    if valid_seconds(seconds, field, violations):
        duration.FromNanoseconds(round(seconds * 1e6) * 1000)


def _set_kind(request: CreateDownloadRequest, spec: FormatSpec, violations: FieldViolations) -> None:
    audio = request.audio_only or request.format in choices.AUDIO_FORMATS
    if request.subtitles_only:
        spec.media_kind = FormatSpec.SUBTITLES_ONLY
        for field in _MEDIA_FIELDS:
            if getattr(request, field):
                violations.add(field, "must be unset where subtitles_only is set")
    elif audio:
        spec.media_kind = FormatSpec.AUDIO
        if request.format in choices.CONTAINERS:
            violations.add("format", f"{request.format} is a video format, and audio_only is set")
        if request.quality in choices.HEIGHTS:
            violations.add("quality", 'audio has none: it must be unset, "best" or "worst"')


def _set_picture(request: CreateDownloadRequest, spec: FormatSpec, violations: FieldViolations) -> None:
    heights = {choices.BEST: 0, **choices.HEIGHTS}
    parse_choice(request.quality, choices.QUALITIES, "quality", violations)
    spec.smallest = request.quality == choices.WORST
    spec.max_height = choices.HEIGHTS.get(request.quality, 0)
    spec.min_height = parse_choice(request.min_quality, heights, "min_quality", violations) or 0
    parse_choice(request.format, choices.FORMATS, "format", violations)
    spec.container = choices.CONTAINERS.get(request.format, spec.container)
    if codec := parse_choice(request.video_codec, choices.VIDEO_CODECS, "video_codec", violations):
        spec.video_codecs.append(codec)
    spec.dynamic_range = parse_choice(request.hdr, choices.HDR, "hdr", violations) or spec.dynamic_range


def _set_audio(request: CreateDownloadRequest, spec: FormatSpec) -> None:
    if request.format in choices.AUDIO_FORMATS:
        spec.audio.format = choices.AUDIO_FORMATS[request.format]
    if request.audio_bitrate:
        spec.audio.bitrate_kbps = request.audio_bitrate
    if request.audio_language:
        spec.audio.languages.append(request.audio_language)


def _set_subtitles(
    request: CreateDownloadRequest, spec: FormatSpec.Subtitles, violations: FieldViolations
) -> None:
    spec.SetInParent()
    spec.languages.extend(request.subtitle_languages)
    for word in request.subtitle_formats:
        # An empty word is no format either.
        if format_ := parse_choice(word or " ", choices.SUBTITLE_FORMATS, "subtitle_formats", violations):
            spec.formats.append(format_)
    kinds = parse_choice(request.subtitle_kinds, choices.SUBTITLE_KINDS, "subtitle_kinds", violations)
    spec.kinds = kinds or spec.kinds
    spec.translate_to = request.translate_to
    spec.embed = request.embed_subtitles
    spec.required = request.require_subtitles


def _set_chapters(request: CreateDownloadRequest, spec: FormatSpec, violations: FieldViolations) -> None:
    spec.chapters = parse_choice(request.chapters, choices.CHAPTERS, "chapters", violations) or spec.chapters
    if mode := parse_choice(request.sponsorblock, choices.SPONSORBLOCK, "sponsorblock", violations):
        spec.sponsorblock.mode = mode
        spec.sponsorblock.categories.extend(request.sponsorblock_categories)
    elif request.sponsorblock_categories:
        violations.add("sponsorblock_categories", "must be unset where sponsorblock is unset")


def _set_times(request: CreateDownloadRequest, spec: FormatSpec, violations: FieldViolations) -> None:
    if request.HasField("start_seconds"):
        set_duration(spec.clip.start, request.start_seconds, "start_seconds", violations)
    if request.HasField("end_seconds"):
        set_duration(spec.clip.end, request.end_seconds, "end_seconds", violations)
    if request.max_duration_seconds:
        field = "max_duration_seconds"
        set_duration(spec.max_duration, request.max_duration_seconds, field, violations)
