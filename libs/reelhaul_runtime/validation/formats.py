"""What may be asked of the media: the bounds of FormatSpec and how its fields narrow each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.validation.violations import FieldViolations

# SponsorBlock's names for stretches, https://wiki.sponsor.ajay.app/w/Types
_REMOVABLE = frozenset(
    {"sponsor", "intro", "outro", "selfpromo", "preview", "hook", "filler", "interaction", "music_offtopic"}
)
# These mark a point or name a part: there is nothing to cut out.
_MARKABLE = _REMOVABLE | {"poi_highlight", "chapter"}

# BCP-47 by shape; "original" and "all" are words of ours of the same shape.
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,7}")
_MAX_LANGUAGES = 20

# yt-dlp's format language less its regular expressions (~=), which can be made to run for ever.
_SELECTOR = re.compile(r"[A-Za-z0-9_+/*()\[\]<>=!?^$.:'\" -]{1,500}")

_COOKIES = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_VIDEO_FIELDS = ("max_height", "min_height", "container", "video_codecs", "max_frame_rate", "dynamic_range")
_AN_INSTANT = timedelta(microseconds=1)


def check_format(spec: FormatSpec, path: str, findings: FieldViolations) -> None:
    """Find what breaks a bound in *spec*, named below *path*."""
    _check_kind(spec, path, findings)
    _check_picture(spec, path, findings)
    _check_audio(spec.audio, f"{path}.audio", findings)
    _check_subtitles(spec.subtitles, f"{path}.subtitles", findings)
    _check_clip(spec, path, findings)
    if spec.HasField("sponsorblock"):
        _check_sponsorblock(spec.sponsorblock, f"{path}.sponsorblock", findings)
    if spec.max_size_bytes < 0:
        findings.add(f"{path}.max_size_bytes", "it must not be negative")
    if spec.HasField("max_duration"):
        findings.check_duration(f"{path}.max_duration", spec.max_duration, _AN_INSTANT)
    if spec.live.HasField("max_duration"):
        findings.check_duration(f"{path}.live.max_duration", spec.live.max_duration, _AN_INSTANT)
    if spec.selector and not (_SELECTOR.fullmatch(spec.selector) and _is_balanced(spec.selector)):
        findings.add(f"{path}.selector", "it is no format selector of the kind allowed")
    if spec.cookies and not _COOKIES.fullmatch(spec.cookies):
        findings.add(f"{path}.cookies", "it is the name of cookies kept at the server: a-z, 0-9, _ and -")


def apply_defaults(spec: FormatSpec) -> None:
    """Write the defaults that FormatSpec's comments name; what says "whatever fits" stays unset."""
    spec.media_kind = spec.media_kind or FormatSpec.VIDEO
    spec.chapters = spec.chapters or FormatSpec.OMIT
    spec.live.mode = spec.live.mode or FormatSpec.Live.REFUSE
    if spec.media_kind == FormatSpec.VIDEO:
        spec.dynamic_range = spec.dynamic_range or FormatSpec.PREFER_SDR
    if spec.media_kind != FormatSpec.SUBTITLES_ONLY:
        spec.audio.bitrate_kbps = spec.audio.bitrate_kbps or 192
        spec.audio.languages[:] = spec.audio.languages or ["original"]
    if spec.HasField("subtitles"):
        wanted = spec.subtitles
        wanted.languages[:] = wanted.languages or ["original"]
        wanted.formats[:] = wanted.formats or [FormatSpec.Subtitles.SRT]
        wanted.kinds = wanted.kinds or FormatSpec.Subtitles.BOTH
    if spec.HasField("sponsorblock"):
        spec.sponsorblock.categories[:] = spec.sponsorblock.categories or ["sponsor"]


def _check_kind(spec: FormatSpec, path: str, findings: FieldViolations) -> None:
    """Find fields that the kind of output has no use for."""
    if spec.media_kind in (FormatSpec.AUDIO, FormatSpec.SUBTITLES_ONLY):
        kind = FormatSpec.MediaKind.Name(spec.media_kind)
        for name in _VIDEO_FIELDS:
            if getattr(spec, name):
                findings.add(f"{path}.{name}", f"it must be unset where media_kind is {kind}")
        if spec.subtitles.embed:
            findings.add(f"{path}.subtitles.embed", "there is no video to write them into")
    elif spec.audio.format:
        findings.add(f"{path}.audio.format", "it must be unset where video is asked for: use container")
    if spec.media_kind == FormatSpec.SUBTITLES_ONLY:
        if not spec.HasField("subtitles"):
            findings.add(f"{path}.subtitles", "it is required where media_kind is SUBTITLES_ONLY")
        if spec.HasField("audio"):
            findings.add(f"{path}.audio", "it must be unset where media_kind is SUBTITLES_ONLY")


def _check_picture(spec: FormatSpec, path: str, findings: FieldViolations) -> None:
    good = findings.check_range(f"{path}.max_height", spec.max_height, 144, 4320)
    good &= findings.check_range(f"{path}.min_height", spec.min_height, 144, 4320)
    if good and spec.max_height and spec.min_height > spec.max_height:
        findings.add(f"{path}.min_height", f"it is above max_height, {spec.max_height}")
    findings.check_range(f"{path}.max_frame_rate", spec.max_frame_rate, 1, 240)
    _check_repeated(spec.video_codecs, f"{path}.video_codecs", findings)


def _check_audio(audio: FormatSpec.Audio, path: str, findings: FieldViolations) -> None:
    findings.check_range(f"{path}.bitrate_kbps", audio.bitrate_kbps, 32, 320)
    _check_languages(audio.languages, f"{path}.languages", findings)
    if "all" in audio.languages:
        findings.add(f"{path}.languages", '"all" is for subtitles')


def _check_subtitles(wanted: FormatSpec.Subtitles, path: str, findings: FieldViolations) -> None:
    _check_languages(wanted.languages, f"{path}.languages", findings)
    _check_repeated(wanted.formats, f"{path}.formats", findings)
    if wanted.translate_to and (
        not _LANGUAGE.fullmatch(wanted.translate_to) or wanted.translate_to in ("all", "original")
    ):
        findings.add(f"{path}.translate_to", f"{wanted.translate_to[:40]!r} is no BCP-47 language")


def _check_languages(languages: Iterable[str], path: str, findings: FieldViolations) -> None:
    asked = list(languages)
    if len(asked) > _MAX_LANGUAGES:
        findings.add(path, f"at most {_MAX_LANGUAGES} languages, not {len(asked)}")
        return
    for language in asked:
        if not _LANGUAGE.fullmatch(language):
            findings.add(path, f"{language[:40]!r} is no BCP-47 language")
    if len(set(asked)) < len(asked):
        findings.add(path, "a language stands in it twice")


def _check_repeated(numbers: Iterable[int], path: str, findings: FieldViolations) -> None:
    asked = list(numbers)
    if 0 in asked:
        findings.add(path, "it holds the unspecified value")
    if len(set(asked)) < len(asked):
        findings.add(path, "a value stands in it twice")


def _check_clip(spec: FormatSpec, path: str, findings: FieldViolations) -> None:
    if not spec.HasField("clip"):
        return
    clip, good = spec.clip, True
    if clip.HasField("start"):
        good &= findings.check_duration(f"{path}.clip.start", clip.start, timedelta(0))
    if clip.HasField("end"):
        good &= findings.check_duration(f"{path}.clip.end", clip.end, _AN_INSTANT)
        if good and clip.end.ToNanoseconds() <= clip.start.ToNanoseconds():
            findings.add(f"{path}.clip.end", "it must be after clip.start")
    if spec.live.mode in (FormatSpec.Live.WAIT, FormatSpec.Live.RECORD):
        findings.add(f"{path}.clip", "live media cannot be cut: use live.max_duration")


def _check_sponsorblock(block: FormatSpec.SponsorBlock, path: str, findings: FieldViolations) -> None:
    if not block.mode:
        findings.add(f"{path}.mode", "it is required: MARK or REMOVE")
    known = _REMOVABLE if block.mode == FormatSpec.SponsorBlock.REMOVE else _MARKABLE
    for category in sorted(set(block.categories) - known)[:5]:
        findings.add(f"{path}.categories", f"{category[:40]!r} is none of {', '.join(sorted(known))}")


def _is_balanced(selector: str) -> bool:
    """Whether every bracket in *selector* is closed by its like."""
    closing, open_ = {")": "(", "]": "["}, ""
    for letter in selector:
        if letter in "([":
            open_ += letter
        elif letter in closing:
            if not open_.endswith(closing[letter]):
                return False
            open_ = open_[:-1]
    return not open_
