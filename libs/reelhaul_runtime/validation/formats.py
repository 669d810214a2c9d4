"""Formats: the limits and defaults of FormatSpec, and which of its fields exclude each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.validation.violations import FieldViolations

# SponsorBlock's categories of segments, https://wiki.sponsor.ajay.app/w/Types
_REMOVABLE_CATEGORIES = frozenset(
    {"sponsor", "intro", "outro", "selfpromo", "preview", "hook", "filler", "interaction", "music_offtopic"}
)
# The added ones mark a point or name a chapter: there is nothing to remove.
_MARKABLE_CATEGORIES = _REMOVABLE_CATEGORIES | {"poi_highlight", "chapter"}

# BCP-47 by shape; our own "original" and "all" have the same shape.
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,7}")
_MAX_LANGUAGES = 20

# yt-dlp's format selection without regular expressions (~=), whose matching could run for ever.
_SELECTOR = re.compile(r"[A-Za-z0-9_+/*()\[\]<>=!?^$.:'\" -]{1,500}")

_COOKIES = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VIDEO_FIELDS = ("max_height", "min_height", "container", "video_codecs", "max_frame_rate", "dynamic_range")
_POSITIVE = timedelta(microseconds=1)


def check_format(spec: FormatSpec, path: str, violations: FieldViolations) -> None:
    """Add the violations of *spec*, whose field is *path*."""
    _check_media_kind(spec, path, violations)
    _check_picture(spec, path, violations)
    _check_audio(spec.audio, f"{path}.audio", violations)
    _check_subtitles(spec.subtitles, f"{path}.subtitles", violations)
    _check_clip(spec, path, violations)
    if spec.HasField("sponsorblock"):
        _check_sponsorblock(spec.sponsorblock, f"{path}.sponsorblock", violations)
    if spec.max_size_bytes < 0:
        violations.add(f"{path}.max_size_bytes", "must not be negative")
    if spec.HasField("max_duration"):
        violations.check_duration(f"{path}.max_duration", spec.max_duration, _POSITIVE)
    if spec.live.HasField("max_duration"):
        violations.check_duration(f"{path}.live.max_duration", spec.live.max_duration, _POSITIVE)
    if spec.selector and not (_SELECTOR.fullmatch(spec.selector) and _is_balanced(spec.selector)):
        violations.add(f"{path}.selector", "is not a format selector, or uses a part that is not allowed")
    if spec.cookies and not _COOKIES.fullmatch(spec.cookies):
        violations.add(f"{path}.cookies", "must be the name of cookies kept at the server: a-z, 0-9, _ and -")


def apply_defaults(spec: FormatSpec) -> None:
    """Set the defaults that FormatSpec's comments name; fields that mean "any" stay unset."""
    spec.media_kind = spec.media_kind or FormatSpec.VIDEO
    spec.chapters = spec.chapters or FormatSpec.OMIT
    spec.live.mode = spec.live.mode or FormatSpec.Live.REFUSE
    if spec.media_kind == FormatSpec.VIDEO:
        spec.dynamic_range = spec.dynamic_range or FormatSpec.PREFER_SDR
    if spec.media_kind != FormatSpec.SUBTITLES_ONLY:
        spec.audio.bitrate_kbps = spec.audio.bitrate_kbps or 192
        spec.audio.languages[:] = spec.audio.languages or ["original"]
    if spec.HasField("subtitles"):
        subtitles = spec.subtitles
        subtitles.languages[:] = subtitles.languages or ["original"]
        subtitles.formats[:] = subtitles.formats or [FormatSpec.Subtitles.SRT]
        subtitles.kinds = subtitles.kinds or FormatSpec.Subtitles.BOTH
    if spec.HasField("sponsorblock"):
        spec.sponsorblock.categories[:] = spec.sponsorblock.categories or ["sponsor"]


def _check_media_kind(spec: FormatSpec, path: str, violations: FieldViolations) -> None:
    """Add a violation for each field that the kind of media does not use."""
    if spec.media_kind in (FormatSpec.AUDIO, FormatSpec.SUBTITLES_ONLY):
        kind = FormatSpec.MediaKind.Name(spec.media_kind)
        for name in _VIDEO_FIELDS:
            if getattr(spec, name):
                violations.add(f"{path}.{name}", f"must be unset if media_kind is {kind}")
        if spec.subtitles.embed:
            violations.add(f"{path}.subtitles.embed", "requires a video to embed them into")
    elif spec.audio.format:
        violations.add(f"{path}.audio.format", "must be unset for video: use container")
    if spec.media_kind == FormatSpec.SUBTITLES_ONLY:
        if not spec.HasField("subtitles"):
            violations.add(f"{path}.subtitles", "is required if media_kind is SUBTITLES_ONLY")
        if spec.HasField("audio"):
            violations.add(f"{path}.audio", "must be unset if media_kind is SUBTITLES_ONLY")


def _check_picture(spec: FormatSpec, path: str, violations: FieldViolations) -> None:
    valid = violations.check_range(f"{path}.max_height", spec.max_height, 144, 4320)
    valid &= violations.check_range(f"{path}.min_height", spec.min_height, 144, 4320)
    if valid and spec.max_height and spec.min_height > spec.max_height:
        violations.add(f"{path}.min_height", f"is above max_height, {spec.max_height}")
    violations.check_range(f"{path}.max_frame_rate", spec.max_frame_rate, 1, 240)
    _check_repeated_enum(spec.video_codecs, f"{path}.video_codecs", violations)


def _check_audio(audio: FormatSpec.Audio, path: str, violations: FieldViolations) -> None:
    violations.check_range(f"{path}.bitrate_kbps", audio.bitrate_kbps, 32, 320)
    _check_languages(audio.languages, f"{path}.languages", violations)
    if "all" in audio.languages:
        violations.add(f"{path}.languages", '"all" is for subtitles only')


def _check_subtitles(subtitles: FormatSpec.Subtitles, path: str, violations: FieldViolations) -> None:
    _check_languages(subtitles.languages, f"{path}.languages", violations)
    _check_repeated_enum(subtitles.formats, f"{path}.formats", violations)
    if subtitles.translate_to and (
        not _LANGUAGE.fullmatch(subtitles.translate_to) or subtitles.translate_to in ("all", "original")
    ):
        violations.add(f"{path}.translate_to", f"{subtitles.translate_to[:40]!r} is not a BCP-47 language")


def _check_languages(values: Iterable[str], path: str, violations: FieldViolations) -> None:
    languages = list(values)
    if len(languages) > _MAX_LANGUAGES:
        violations.add(path, f"must be at most {_MAX_LANGUAGES} languages, not {len(languages)}")
        return
    for language in languages:
        if not _LANGUAGE.fullmatch(language):
            violations.add(path, f"{language[:40]!r} is not a BCP-47 language")
    if len(set(languages)) < len(languages):
        violations.add(path, "has a language twice")


def _check_repeated_enum(values: Iterable[int], path: str, violations: FieldViolations) -> None:
    numbers = list(values)
    if 0 in numbers:
        violations.add(path, "has the unspecified value")
    if len(set(numbers)) < len(numbers):
        violations.add(path, "has a value twice")


def _check_clip(spec: FormatSpec, path: str, violations: FieldViolations) -> None:
    if not spec.HasField("clip"):
        return
    clip, valid = spec.clip, True
    if clip.HasField("start"):
        valid &= violations.check_duration(f"{path}.clip.start", clip.start, timedelta(0))
    if clip.HasField("end"):
        valid &= violations.check_duration(f"{path}.clip.end", clip.end, _POSITIVE)
        if valid and clip.end.ToNanoseconds() <= clip.start.ToNanoseconds():
            violations.add(f"{path}.clip.end", "must be after clip.start")
    if spec.live.mode in (FormatSpec.Live.WAIT, FormatSpec.Live.RECORD):
        violations.add(f"{path}.clip", "must be unset for live media: use live.max_duration")


def _check_sponsorblock(block: FormatSpec.SponsorBlock, path: str, violations: FieldViolations) -> None:
    if not block.mode:
        violations.add(f"{path}.mode", "is required: MARK or REMOVE")
    removes = block.mode == FormatSpec.SponsorBlock.REMOVE
    allowed = _REMOVABLE_CATEGORIES if removes else _MARKABLE_CATEGORIES
    for category in sorted(set(block.categories) - allowed)[:5]:
        violations.add(f"{path}.categories", f"{category[:40]!r} is not one of {', '.join(sorted(allowed))}")


def _is_balanced(selector: str) -> bool:
    """Return whether each bracket in *selector* is closed by one of its kind."""
    opening, open_brackets = {")": "(", "]": "["}, ""
    for letter in selector:
        if letter in "([":
            open_brackets += letter
        elif letter in opening:
            if not open_brackets.endswith(opening[letter]):
                return False
            open_brackets = open_brackets[:-1]
    return not open_brackets
