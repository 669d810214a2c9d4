"""The words of the flat API and the values they stand for; what is not here is no word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_runtime.validation.violations import FieldViolations

V = TypeVar("V")

BEST, WORST = "best", "worst"
#: Rungs of the quality ladder -> pixels.
HEIGHTS = {f"{height}p": height for height in (4320, 2160, 1440, 1080, 720, 480, 360, 240, 144)}
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
ORDERS = {"newest": "create_time desc", "oldest": "create_time"}


def parse_choice(word: str, words: Mapping[str, V], field: str, findings: FieldViolations) -> V | None:
    """What *word* stands for; None where it is empty, or no word, which is a finding."""
    if not word:
        return None
    if word not in words:
        findings.add(field, f"{word[:40]!r} is none of {', '.join(words)}")
        return None
    return words[word]


def word_of(value: V, words: Mapping[str, V]) -> str:
    """The word for *value*; empty where there is none."""
    return next((word for word, stands_for in words.items() if stands_for == value), "")
