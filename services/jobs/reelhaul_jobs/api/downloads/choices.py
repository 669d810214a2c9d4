"""Choices: the words of the flat API and the values that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from reelhaul import qualities
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.validation.violations import FieldViolations

V = TypeVar("V")

BEST, WORST = "best", "worst"
#: Quality -> class of the picture.
HEIGHTS = {f"{number}p": number for number in qualities.CLASSES}
QUALITIES: Mapping[str, int] = {BEST: 0, **HEIGHTS, WORST: 0}

CONTAINERS = {"mp4": FormatSpec.MP4, "webm": FormatSpec.WEBM, "mkv": FormatSpec.MKV}
AUDIO_FORMATS = {
    "mp3": FormatSpec.Audio.MP3,
    "m4a": FormatSpec.Audio.M4A,
    "opus": FormatSpec.Audio.OPUS,
    "flac": FormatSpec.Audio.FLAC,
    "wav": FormatSpec.Audio.WAV,
    "ogg": FormatSpec.Audio.OGG,
}
FORMATS: Mapping[str, int] = {**CONTAINERS, **AUDIO_FORMATS}
VIDEO_CODECS = {
    "h264": FormatSpec.H264,
    "h265": FormatSpec.H265,
    "vp9": FormatSpec.VP9,
    "av1": FormatSpec.AV1,
}
HDR = {"prefer": FormatSpec.PREFER_HDR, "require": FormatSpec.REQUIRE_HDR, "avoid": FormatSpec.PREFER_SDR}
SUBTITLE_FORMATS = {
    "srt": FormatSpec.Subtitles.SRT,
    "vtt": FormatSpec.Subtitles.VTT,
    "txt": FormatSpec.Subtitles.TXT,
    "json": FormatSpec.Subtitles.JSON,
}
SUBTITLE_KINDS = {
    "manual": FormatSpec.Subtitles.MANUAL,
    "auto": FormatSpec.Subtitles.AUTO,
    "both": FormatSpec.Subtitles.BOTH,
}
CHAPTERS = {"embed": FormatSpec.EMBED, "split": FormatSpec.SPLIT}
SPONSORBLOCK = {"mark": FormatSpec.SponsorBlock.MARK, "remove": FormatSpec.SponsorBlock.REMOVE}
LIVE = {"refuse": FormatSpec.Live.REFUSE, "wait": FormatSpec.Live.WAIT, "record": FormatSpec.Live.RECORD}
PRIORITIES = {"low": Job.LOW, "normal": Job.NORMAL, "high": Job.HIGH}
#: The words of what jobs have, by value.
CONTAINER_WORDS = {value: word for word, value in CONTAINERS.items()}
AUDIO_FORMAT_WORDS = {value: word for word, value in AUDIO_FORMATS.items()}
PRIORITY_WORDS: Mapping[int, str] = {value: word for word, value in PRIORITIES.items()}
#: Order of a list -> whether it is descending by create_time.
ORDERS = {"newest": True, "oldest": False}


def parse_choice(word: str, choices: Mapping[str, V], field: str, violations: FieldViolations) -> V | None:
    """Return what *word* stands for; None where it is empty, or none of *choices*: a violation."""
    if not word:
        return None
    if word not in choices:
        violations.add(field, f"{word[:40]!r} is none of {', '.join(choices)}")
        return None
    return choices[word]
