"""Conversion of what yt-dlp tells of media into the API's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import timestamp_pb2

from reelhaul.normalization import normalize
from reelhaul.type.v1.media_pb2 import Chapter, Format, MediaInfo, PlaylistEntry, SubtitleTrack
from reelhaul_fetcher.media.verify import to_duration
from reelhaul_fetcher.model.codecs import UNKNOWN

_LIVE_STATUS = {
    "not_live": MediaInfo.NOT_LIVE,
    "is_upcoming": MediaInfo.UPCOMING,
    "is_live": MediaInfo.LIVE,
    "was_live": MediaInfo.WAS_LIVE,
    "post_live": MediaInfo.POST_LIVE,
}
_PROTOCOLS = {
    "http": "https",
    "https": "https",
    "m3u8": "hls",
    "m3u8_native": "hls",
    "http_dash_segments": "dash",
}
_MAX_DESCRIPTION = 5000


def to_media_info(info: dict[str, Any]) -> MediaInfo:
    """Return yt-dlp's info dict of a video or list as MediaInfo, formats worst first."""
    media = MediaInfo(
        extractor=_text(info.get("extractor")),
        media_id=_text(info.get("id")),
        url=_text(info.get("webpage_url") or info.get("original_url") or info.get("url")),
        title=_text(info.get("title")),
        description=_text(info.get("description"))[:_MAX_DESCRIPTION],
        uploader=_text(info.get("uploader") or info.get("channel")),
        thumbnail_url=_text(info.get("thumbnail")),
        live_status=_LIVE_STATUS.get(info.get("live_status") or "", MediaInfo.LIVE_STATUS_UNSPECIFIED),
        original_language_code=_text(info.get("language")),
        age_limit=int(info.get("age_limit") or 0),
        entry_count=int(info.get("playlist_count") or 0) if "entries" in info else 0,
    )
    if info.get("duration"):
        media.duration.CopyFrom(to_duration(float(info["duration"])))
    if info.get("view_count") is not None:
        media.view_count = int(info["view_count"])
    _set_time(media.publish_time, info.get("timestamp"))
    if media.live_status == MediaInfo.UPCOMING:
        _set_time(media.live_start_time, info.get("release_timestamp"))
    media.formats.extend(map(to_format, playable_formats(info)))
    media.subtitle_tracks.extend(_subtitle_tracks(info))
    media.chapters.extend(_chapters(info.get("chapters") or ()))
    media.entries.extend(to_entry(entry, n) for n, entry in enumerate(info.get("entries") or (), 1) if entry)
    return media


def playable_formats(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Return yt-dlp's formats of a video. A page with one link has no formats: the video is the format."""
    if "entries" in info:
        return []
    formats = info.get("formats") or ([info] if info.get("url") else [])
    # Storyboards are pictures of the video, not the video.
    return [f for f in formats if f.get("protocol") != "mhtml" and f.get("format_note") != "storyboard"]


def to_format(stream: dict[str, Any]) -> Format:
    """Return one of yt-dlp's formats as a Format.

    A codec that the site does not tell is "unknown"; the codec of a missing stream is empty.
    """
    result = Format(
        format_id=_text(stream.get("format_id")),
        container=_text(stream.get("ext")).replace("unknown_video", ""),
        video_codec=_codec(stream.get("vcodec")),
        audio_codec=_codec(stream.get("acodec")),
        width=int(stream.get("width") or 0),
        height=int(stream.get("height") or 0),
        frame_rate=float(stream.get("fps") or 0),
        bitrate_bps=int(float(stream.get("tbr") or 0) * 1000),
        size_bytes=int(stream.get("filesize") or stream.get("filesize_approx") or 0),
        size_estimated=not stream.get("filesize") and bool(stream.get("filesize_approx")),
        language_code=_text(stream.get("language")),
        protocol=_PROTOCOLS.get(_text(stream.get("protocol")), _text(stream.get("protocol"))),
        audio_channels=int(stream.get("audio_channels") or 0),
        drm=bool(stream.get("has_drm")) and stream.get("has_drm") != "maybe",
    )
    dynamic_range = _text(stream.get("dynamic_range"))
    result.dynamic_range = "" if dynamic_range == "SDR" else dynamic_range
    preference = stream.get("language_preference")
    if result.audio_codec and preference is not None and preference != -1:
        result.original_audio = preference >= 10
    return result


def to_entry(entry: dict[str, Any], position: int) -> PlaylistEntry:
    """Return one of yt-dlp's entries as a PlaylistEntry; *position* is used if the entry has none."""
    result = PlaylistEntry(
        url=_text(entry.get("webpage_url") or entry.get("url")),
        title=_text(entry.get("title")),
        media_id=_text(entry.get("id")),
        position=int(entry.get("playlist_index") or position),
    )
    if entry.get("duration"):
        result.duration.CopyFrom(to_duration(float(entry["duration"])))
    return result


def _codec(codec: Any) -> str:
    if codec == "none":
        return ""
    return _text(codec) or UNKNOWN


def _subtitle_tracks(info: dict[str, Any]) -> Iterable[SubtitleTrack]:
    for code, forms in (info.get("subtitles") or {}).items():
        if code != "live_chat" and forms:
            name = _text(forms[0].get("name"))
            yield SubtitleTrack(language_code=code, kind=SubtitleTrack.MANUAL, display_name=name)
    spoken = _text(info.get("language"))
    for code, forms in (info.get("automatic_captions") or {}).items():
        if not forms:
            continue
        original = code.endswith("-orig") or code == spoken
        yield SubtitleTrack(
            language_code=code.removesuffix("-orig"),
            kind=SubtitleTrack.AUTO if original else SubtitleTrack.TRANSLATED,
            display_name=_text(forms[0].get("name")),
            source_language_code="" if original else spoken,
        )


def _chapters(chapters: Iterable[dict[str, Any]]) -> Iterable[Chapter]:
    for chapter in chapters:
        start, end = float(chapter.get("start_time") or 0), float(chapter.get("end_time") or 0)
        yield Chapter(title=_text(chapter.get("title")), start=to_duration(start), end=to_duration(end))


def _set_time(field: timestamp_pb2.Timestamp, seconds: Any) -> None:
    if isinstance(seconds, int | float):
        field.FromSeconds(int(seconds))


def _text(value: Any) -> str:
    """Return *value* as text that protobuf accepts: NFC, without lone surrogates."""
    if value is None:
        return ""
    return normalize(str(value).encode("utf-8", "replace").decode())
