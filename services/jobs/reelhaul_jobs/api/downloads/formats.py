"""What a flat request says of the media, as a FormatSpec."""

from __future__ import annotations

from google.protobuf import duration_pb2

from reelhaul.downloads.v1.download_service_pb2 import CreateDownloadRequest
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_jobs.api.downloads import choices
from reelhaul_jobs.api.downloads.durations import seconds
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


def spec(request: CreateDownloadRequest, findings: FieldViolations) -> FormatSpec:
    """The FormatSpec that *request* asks for; words that are none are findings."""
    asked = FormatSpec(
        thumbnail=request.thumbnail,
        info_json=request.info_json,
        max_size_bytes=request.max_size_bytes,
        max_frame_rate=request.max_fps,
        cookies=request.cookies,
    )
    _set_kind(request, asked, findings)
    _set_picture(request, asked, findings)
    _set_audio(request, asked, findings)
    if any(getattr(request, field) for field in _SUBTITLE_FIELDS):
        _set_subtitles(request, asked.subtitles, findings)
    _set_cuts(request, asked, findings)
    return asked


def _set_kind(request: CreateDownloadRequest, asked: FormatSpec, findings: FieldViolations) -> None:
    audio = request.audio_only or request.format in choices.AUDIO_FORMATS
    if request.subtitles_only:
        asked.media_kind = FormatSpec.SUBTITLES_ONLY
        for field in _MEDIA_FIELDS:
            if getattr(request, field):
                findings.add(field, "it must be unset where subtitles_only is set")
    elif audio:
        asked.media_kind = FormatSpec.AUDIO
        if request.format in choices.CONTAINERS:
            findings.add("format", f"{request.format} is a video format; audio_only is set")
        if request.quality in choices.HEIGHTS:
            findings.add("quality", "audio has none: leave it unset, or say best or worst")


def _set_picture(request: CreateDownloadRequest, asked: FormatSpec, findings: FieldViolations) -> None:
    heights = {choices.BEST: 0, **choices.HEIGHTS}
    choices.parse_choice(request.quality, choices.QUALITIES, "quality", findings)
    asked.smallest = request.quality == choices.WORST
    asked.max_height = choices.HEIGHTS.get(request.quality, 0)
    asked.min_height = choices.parse_choice(request.min_quality, heights, "min_quality", findings) or 0
    choices.parse_choice(request.format, choices.FORMATS, "format", findings)
    asked.container = choices.CONTAINERS.get(request.format, asked.container)
    if codec := choices.parse_choice(request.video_codec, choices.VIDEO_CODECS, "video_codec", findings):
        asked.video_codecs.append(codec)
    asked.dynamic_range = (
        choices.parse_choice(request.hdr, choices.HDR, "hdr", findings) or asked.dynamic_range
    )


def _set_audio(request: CreateDownloadRequest, asked: FormatSpec, findings: FieldViolations) -> None:
    if request.format in choices.AUDIO_FORMATS:
        asked.audio.format = choices.AUDIO_FORMATS[request.format]
    if request.audio_bitrate:
        asked.audio.bitrate_kbps = request.audio_bitrate
    if request.audio_language:
        asked.audio.languages.append(request.audio_language)


def _set_subtitles(
    request: CreateDownloadRequest, asked: FormatSpec.Subtitles, findings: FieldViolations
) -> None:
    asked.SetInParent()
    asked.languages.extend(request.subtitle_languages)
    for word in request.subtitle_formats:
        if value := choices.parse_choice(word or " ", choices.SUBTITLE_FORMATS, "subtitle_formats", findings):
            asked.formats.append(value)
    kinds = choices.parse_choice(request.subtitle_kinds, choices.SUBTITLE_KINDS, "subtitle_kinds", findings)
    asked.kinds = kinds or asked.kinds
    asked.translate_to = request.translate_to
    asked.embed = request.embed_subtitles
    asked.required = request.require_subtitles


def _set_cuts(request: CreateDownloadRequest, asked: FormatSpec, findings: FieldViolations) -> None:
    asked.chapters = (
        choices.parse_choice(request.chapters, choices.CHAPTERS, "chapters", findings) or asked.chapters
    )
    if mode := choices.parse_choice(request.sponsorblock, choices.SPONSORBLOCK, "sponsorblock", findings):
        asked.sponsorblock.mode = mode
        asked.sponsorblock.categories.extend(request.sponsorblock_categories)
    elif request.sponsorblock_categories:
        findings.add("sponsorblock_categories", "they must be unset where sponsorblock is not set")
    if live := choices.parse_choice(request.live, choices.LIVE, "live", findings):
        asked.live.mode = live
    if request.HasField("start_seconds"):
        _set(asked.clip.start, request.start_seconds, "start_seconds", findings)
    if request.HasField("end_seconds"):
        _set(asked.clip.end, request.end_seconds, "end_seconds", findings)
    if request.max_duration_seconds:
        _set(asked.max_duration, request.max_duration_seconds, "max_duration_seconds", findings)


def _set(into: duration_pb2.Duration, value: float, field: str, findings: FieldViolations) -> None:
    into.SetInParent()
    seconds(value, into, field, findings)
