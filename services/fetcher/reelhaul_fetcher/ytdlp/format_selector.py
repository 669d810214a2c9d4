"""Format selectors: the allowed part of yt-dlp's format language, evaluated by yt-dlp.

Not allowed are several downloads (``,``, ``all``, ``mergeall``), regular expressions (``~=``, which
can be made to run forever), and conditions on fields that a ``Format`` does not have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yt_dlp

from reelhaul.type.v1.media_pb2 import Format

_MAX_LENGTH = 500
# yt-dlp parses and evaluates recursively: these keep it far below Python's recursion limit.
_MAX_DEPTH = 20
_MAX_OPERATORS = 100

_NUMBER_CONDITION = (
    r"\[ *(?:width|height|fps|tbr|filesize|filesize_approx|audio_channels) *"
    r"(?:!=|<=?|>=?|=) *\?? *\d+(?:\.\d+)?(?:[kKmMgG]i?[bB]?)? *\]"
)
_TEXT_CONDITION = (
    r"\[ *(?:ext|vcodec|acodec|format_id|language|protocol|dynamic_range) *"
    r"(?:! *)?[\^$*]?= *\?? *(?:\"[^\"\\\[\]]+\"|'[^'\\\[\]]+'|[\w.-]+) *\]"
)
_NAME = r"(?!(?:merge)?all(?![\w.*-]))[A-Za-z0-9_.*-]+"
_TOKEN = re.compile(rf" *([/+()]|{_NUMBER_CONDITION}|{_TEXT_CONDITION}|{_NAME}) *", re.ASCII)

_PROTOCOLS = {"hls": "m3u8_native", "dash": "http_dash_segments"}


def select_formats(selector: str, offered: Sequence[Format]) -> list[Format]:
    """Return the formats of *offered* (worst first) that *selector* takes, video first: two at most.

    Raises ValueError, with the reason, if *selector* is not in the allowed language.
    """
    _check(selector)
    formats = [_to_yt_dlp(number, stream) for number, stream in enumerate(offered)]
    video_only = [f["vcodec"] != "none" and f["acodec"] == "none" for f in formats]
    audio_only = [f["vcodec"] == "none" and f["acodec"] != "none" for f in formats]
    context = {
        "formats": formats,
        "has_merged_format": any("none" not in (f["vcodec"], f["acodec"]) for f in formats),
        "incomplete_formats": all(video_only) or all(audio_only),
    }
    try:
        with yt_dlp.YoutubeDL({"quiet": True}, auto_init=False) as downloader:
            selections = list(downloader.build_format_selector(selector)(context))
    except SyntaxError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    parts = [part for found in selections[:1] for part in found.get("requested_formats", [found])]
    return _without_repeated_kinds([offered[part["number"]] for part in parts])


def _check(selector: str) -> None:
    """Raise ValueError if *selector* is not in the allowed language. Linear in its length."""
    if len(selector) > _MAX_LENGTH:
        raise ValueError(f"it is longer than {_MAX_LENGTH} characters")
    position = depth = operators = 0
    while position < len(selector):
        token = _TOKEN.match(selector, position)
        if token is None:
            raise ValueError(f"{selector[position : position + 20]!r} is not supported")
        position = token.end()
        operators += token[1] in "/+("
        depth += {"(": 1, ")": -1}.get(token[1], 0)
        if depth < 0:
            raise ValueError("a bracket is closed that was not opened")
        if depth > _MAX_DEPTH or operators > _MAX_OPERATORS:
            raise ValueError("it is too complex")
    if depth:
        raise ValueError("a bracket is not closed")


def _to_yt_dlp(number: int, stream: Format) -> dict[str, Any]:
    """Return *stream* as yt-dlp's format selection reads it; ``None`` is an unknown value."""
    return {
        "number": number,
        "format_id": stream.format_id,
        "url": "",
        "ext": stream.container or None,
        "vcodec": stream.video_codec or "none",
        "acodec": stream.audio_codec or "none",
        "width": stream.width or None,
        "height": stream.height or None,
        "fps": stream.frame_rate or None,
        "tbr": stream.bitrate_bps / 1000 or None,
        "filesize": None if stream.size_estimated else stream.size_bytes or None,
        "filesize_approx": stream.size_bytes or None,
        "audio_channels": stream.audio_channels or None,
        "language": stream.language_code or None,
        "protocol": _PROTOCOLS.get(stream.protocol, stream.protocol) or None,
        "dynamic_range": stream.dynamic_range or "SDR",
    }


def _without_repeated_kinds(streams: list[Format]) -> list[Format]:
    """Return *streams* without those that repeat video or audio, which yt-dlp leaves in some merges."""
    kept: list[Format] = []
    for stream in streams:
        repeats_video = stream.video_codec and any(other.video_codec for other in kept)
        repeats_audio = stream.audio_codec and any(other.audio_codec for other in kept)
        if not repeats_video and not repeats_audio:
            kept.append(stream)
    return sorted(kept, key=lambda stream: not stream.video_codec)
