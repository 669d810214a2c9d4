"""Codecs: which family a codec belongs to, and which containers can hold it."""

from __future__ import annotations

from reelhaul.type.v1.media_pb2 import FormatSpec

VideoCodec = FormatSpec.VideoCodec
Container = FormatSpec.Container

#: The codec of a stream that exists, but whose codec the site does not name.
UNKNOWN = "unknown"

_FAMILIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("avc", "h264", "x264"), "h264"),
    (("hev", "hvc", "h265", "dvh"), "hevc"),
    (("vp9", "vp09"), "vp9"),
    (("vp8", "vp08"), "vp8"),
    (("av01", "av1"), "av1"),
    (("mp4a.40.34", "mp4a.69", "mp4a.6b", "mp3"), "mp3"),
    (("mp4a", "aac"), "aac"),
    (("opus",), "opus"),
    (("vorbis",), "vorbis"),
    (("flac",), "flac"),
    (("ec-3", "eac3"), "eac3"),
    (("ac-3", "ac3"), "ac3"),
)

VIDEO_FAMILY: dict[VideoCodec.ValueType, str] = {
    VideoCodec.H264: "h264",
    VideoCodec.H265: "hevc",
    VideoCodec.VP9: "vp9",
    VideoCodec.AV1: "av1",
}

#: Video families, those with the smallest files first.
EFFICIENCY = ("av1", "vp9", "hevc", "h264")

# What every player of the container plays.
_PLAYABLE: dict[Container.ValueType, frozenset[str]] = {
    Container.MP4: frozenset({"h264", "hevc", "av1", "mpeg4", "aac", "mp3", "ac3", "eac3", "alac"}),
    Container.WEBM: frozenset({"vp8", "vp9", "av1", "opus", "vorbis"}),
}
# What the container can hold, though not every player plays it; still better than transcoding.
_CONTAINABLE: dict[Container.ValueType, frozenset[str]] = {
    Container.MP4: frozenset({"vp9", "opus", "flac"}),
    Container.WEBM: frozenset(),
}


def family(codec: str) -> str:
    """Return ffmpeg's name of the codec that a site calls *codec*; an unknown one as it is, lower-case."""
    lower = codec.lower()
    for prefixes, name in _FAMILIES:
        if lower.startswith(prefixes):
            return name
    return lower


def is_playable(codec: str, container: Container.ValueType) -> bool:
    """Return whether every player of *container* plays *codec* in it. MKV is assumed to play everything."""
    return container not in _PLAYABLE or family(codec) in _PLAYABLE[container]


def can_contain(codec: str, container: Container.ValueType) -> bool:
    """Return whether *container* can hold *codec* without transcoding."""
    return is_playable(codec, container) or family(codec) in _CONTAINABLE[container]
