"""The template of a schedule's jobs: a Job, made of the same options as a download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.qualities import CLASSES
from reelhaul.type.v1.media_pb2 import FormatSpec

_HDR = {"prefer": "PREFER_HDR", "require": "REQUIRE_HDR", "avoid": "PREFER_SDR"}
_SUBTITLE_FIELDS = (
    "subtitle_languages",
    "subtitle_formats",
    "subtitle_kinds",
    "translate_to",
    "embed_subtitles",
    "require_subtitles",
    "subtitles_only",
)


class WordUnknown(ValueError):
    """A word that an option does not take."""


def build_template(request: Mapping[str, Any]) -> Job:
    """Return the job that *request*, the fields of a CreateDownloadRequest, describes.

    Raises WordUnknown. The server checks everything else, as it does for a download.
    """
    job = Job(url=request["url"], labels=request.get("labels", {}), deliver_to=request.get("deliver_to", ""))
    job.priority = _value(Job.Priority, request, "priority")
    if "ttl_seconds" in request:
        job.ttl.CopyFrom(_duration(request["ttl_seconds"]))
    if request.get("playlist"):
        job.kind = Job.EXPANSION
        job.expansion.max_entries = request.get("max_entries", 0)
    spec = job.format
    spec.SetInParent()
    _set_video(request, spec)
    _set_audio(request, spec)
    if any(field in request for field in _SUBTITLE_FIELDS):
        _set_subtitles(request, spec.subtitles)
    _set_edits(request, spec)
    return job


def _set_video(request: Mapping[str, Any], spec: FormatSpec) -> None:
    quality = request.get("quality", "")
    spec.smallest = quality == "worst"
    spec.max_height = 0 if quality == "worst" else _height(quality, "quality")
    spec.min_height = _height(request.get("min_quality", ""), "min_quality")
    spec.max_frame_rate = request.get("max_fps", 0)
    spec.max_size_bytes = request.get("max_size_bytes", 0)
    if "video_codec" in request:
        spec.video_codecs.append(_value(FormatSpec.VideoCodec, request, "video_codec"))
    if "hdr" in request:
        if request["hdr"] not in _HDR:
            raise WordUnknown(f"hdr: {request['hdr']!r} is none of {', '.join(_HDR)}")
        spec.dynamic_range = FormatSpec.DynamicRange.Value(_HDR[request["hdr"]])


def _set_audio(request: Mapping[str, Any], spec: FormatSpec) -> None:
    is_audio_format = request.get("format", "").upper() in FormatSpec.Audio.Format.keys()
    if is_audio_format:
        spec.audio.format = _value(FormatSpec.Audio.Format, request, "format")
    else:
        spec.container = _value(FormatSpec.Container, request, "format")
    if request.get("subtitles_only"):
        spec.media_kind = FormatSpec.SUBTITLES_ONLY
    elif request.get("audio_only") or is_audio_format:
        spec.media_kind = FormatSpec.AUDIO
    if "audio_bitrate" in request:
        spec.audio.bitrate_kbps = request["audio_bitrate"]
    if "audio_language" in request:
        spec.audio.languages.append(request["audio_language"])


def _set_subtitles(request: Mapping[str, Any], subtitles: FormatSpec.Subtitles) -> None:
    subtitles.SetInParent()
    subtitles.languages.extend(request.get("subtitle_languages", ()))
    for word in request.get("subtitle_formats", ()):
        format_ = _value(FormatSpec.Subtitles.Format, {"subtitle_formats": word}, "subtitle_formats")
        subtitles.formats.append(format_)
    subtitles.kinds = _value(FormatSpec.Subtitles.Kinds, request, "subtitle_kinds")
    subtitles.translate_to = request.get("translate_to", "")
    subtitles.embed = request.get("embed_subtitles", False)
    subtitles.required = request.get("require_subtitles", False)


def _set_edits(request: Mapping[str, Any], spec: FormatSpec) -> None:
    spec.thumbnail = request.get("thumbnail", False)
    spec.info_json = request.get("info_json", False)
    spec.cookies = request.get("cookies", "")
    spec.chapters = _value(FormatSpec.Chapters, request, "chapters")
    if "sponsorblock" in request:
        spec.sponsorblock.mode = _value(FormatSpec.SponsorBlock.Mode, request, "sponsorblock")
        spec.sponsorblock.categories.extend(request.get("sponsorblock_categories", ()))
    if "live" in request:
        spec.live.mode = _value(FormatSpec.Live.Mode, request, "live")
    for field, target in (("start_seconds", "start"), ("end_seconds", "end")):
        if field in request:
            getattr(spec.clip, target).CopyFrom(_duration(request[field]))
    if "max_duration_seconds" in request:
        spec.max_duration.CopyFrom(_duration(request["max_duration_seconds"]))


def _height(word: str, field: str) -> int:
    """Return the class of a quality; 0, no limit, if *word* is empty or "best"."""
    if word in ("", "best"):
        return 0
    classes = {f"{number}p": number for number in CLASSES}
    if word not in classes:
        raise WordUnknown(f"{field}: {word!r} is none of best, {', '.join(classes)}")
    return classes[word]


def _value(enum: Any, request: Mapping[str, Any], field: str) -> Any:
    """Return the value of *enum* that the word in *field* names; 0, the server's default, without a word."""
    word = request.get(field, "")
    if not word:
        return 0
    if word.upper() not in enum.keys() or word != word.lower():
        words = (name.lower() for name, number in enum.items() if number)
        raise WordUnknown(f"{field}: {word!r} is none of {', '.join(words)}")
    return enum.Value(word.upper())


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e6) * 1000)
    return duration
