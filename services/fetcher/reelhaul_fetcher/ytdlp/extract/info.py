"""Conversion of what yt-dlp tells of media into the API's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2

from reelhaul.type.v1.media_pb2 import Chapter, Format, MediaInfo, PlaylistEntry, SubtitleTrack
from reelhaul_fetcher.media.verify import to_duration
from reelhaul_fetcher.model import site_limits
from reelhaul_fetcher.model.codecs import UNKNOWN
from reelhaul_fetcher.model.site_limits import SiteValues, clean, number, whole
from reelhaul_fetcher.model.tracks import languages, track_roles
from reelhaul_fetcher.model.tracks.subtitle_tracks import IS_DEFAULT, ROLE, offered_tracks
from reelhaul_fetcher.ytdlp.extract.dash_manifest import DECLARED_SECONDS

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


def to_media_info(
    info: dict[str, Any], values: SiteValues | None = None, entries: Iterable[PlaylistEntry] = ()
) -> MediaInfo:
    """Return yt-dlp's info dict of a video, or of a list with *entries*, as MediaInfo, formats worst first.

    Everything is within ``site_limits``; *values* remembers what is cut.
    """
    values = values or SiteValues()
    page = info.get("webpage_url") or info.get("original_url") or info.get("url")
    media = MediaInfo(
        extractor=values.text("extractor", info.get("extractor"), site_limits.MAX_NAME),
        media_id=values.text("id", info.get("id"), site_limits.MAX_ID),
        url=values.reference("URL", page, site_limits.MAX_URL),
        title=values.text("title", info.get("title"), site_limits.MAX_TITLE),
        description=values.text("description", info.get("description"), site_limits.MAX_DESCRIPTION),
        uploader=values.text("uploader", info.get("uploader") or info.get("channel"), site_limits.MAX_NAME),
        thumbnail_url=values.reference("thumbnail URL", info.get("thumbnail"), site_limits.MAX_URL),
        live_status=_LIVE_STATUS.get(info.get("live_status") or "", MediaInfo.LIVE_STATUS_UNSPECIFIED),
        original_language_code=_language(info.get("language")),
        age_limit=_int32(info.get("age_limit")),
        entry_count=_int32(info.get("playlist_count")) if "entries" in info else 0,
    )
    manifest_seconds = (_seconds(stream.get(DECLARED_SECONDS)) for stream in playable_formats(info))
    _set_duration(media.duration, info.get("duration") or max(manifest_seconds, default=0.0))
    if (views := whole(info.get("view_count"), site_limits.MAX_COUNT)) is not None:
        media.view_count = views
    _set_time(media.publish_time, info.get("timestamp"))
    if media.live_status == MediaInfo.UPCOMING:
        _set_time(media.live_start_time, info.get("release_timestamp"))
    formats = values.last("formats", playable_formats(info), site_limits.MAX_FORMATS)
    media.formats.extend(map(to_format, formats))
    media.subtitle_tracks.extend(_subtitle_tracks(info, values))
    media.chapters.extend(_chapters(info.get("chapters"), values))
    media.entries.extend(entries)
    values.limit_size(media)
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
    size, estimate = (
        whole(stream.get(key), site_limits.MAX_BYTES) for key in ("filesize", "filesize_approx")
    )
    protocol = _code(stream.get("protocol"))
    result = Format(
        format_id=to_format_id(stream),
        container=_code(stream.get("ext")).replace("unknown_video", ""),
        video_codec=_codec(stream.get("vcodec")),
        audio_codec=_codec(stream.get("acodec")),
        width=_int32(stream.get("width")),
        height=_int32(stream.get("height")),
        frame_rate=number(stream.get("fps"), site_limits.MAX_INT32) or 0.0,
        bitrate_bps=int((number(stream.get("tbr"), site_limits.MAX_BYTES) or 0.0) * 1000),
        size_bytes=size or estimate or 0,
        size_estimated=not size and bool(estimate),
        language_code=_language(stream.get("language")),
        protocol=_PROTOCOLS.get(protocol, protocol),
        audio_channels=_int32(stream.get("audio_channels")),
        drm=bool(stream.get("has_drm")) and stream.get("has_drm") != "maybe",
    )
    if result.audio_codec:
        label, name = clean(stream.get("language")), clean(stream.get("format_note"))
        if not result.language_code and not result.video_codec:
            result.language_code = _known(languages.from_name(name))
        result.role = stream.get(ROLE) or track_roles.from_audio_texts(label, name)
        result.default_audio = bool(stream.get(IS_DEFAULT))
    dynamic_range = _code(stream.get("dynamic_range"))
    result.dynamic_range = "" if dynamic_range == "SDR" else dynamic_range
    preference = stream.get("language_preference")
    if result.audio_codec and isinstance(preference, int | float) and preference != -1:
        result.original_audio = preference >= 10
    return result


def to_format_id(stream: dict[str, Any]) -> str:
    """Return the format id of one of yt-dlp's formats."""
    return site_limits.shorten(stream.get("format_id"), site_limits.MAX_NAME)[0]


def _codec(codec: Any) -> str:
    if codec == "none":
        return ""
    return _code(codec) or UNKNOWN


def _subtitle_tracks(info: dict[str, Any], values: SiteValues) -> Iterable[SubtitleTrack]:
    spoken = _language(info.get("language"))
    manual, automatic = (offered_tracks(info, name, values) for name in ("subtitles", "automatic_captions"))
    for track in [*manual, *automatic]:
        original = track.is_original or track.language == spoken
        kind = SubtitleTrack.AUTO if original else SubtitleTrack.TRANSLATED
        yield SubtitleTrack(
            language_code=track.language,
            kind=SubtitleTrack.MANUAL if track.manual else kind,
            display_name=values.text("names of subtitle tracks", track.name, site_limits.MAX_NAME),
            source_language_code="" if track.manual or original else spoken,
            role=track.role,
        )


def _chapters(chapters: Any, values: SiteValues) -> Iterable[Chapter]:
    """Yield the chapters that begin at a time; one without an end has none."""
    listed = (
        [chapter for chapter in chapters if isinstance(chapter, dict)] if isinstance(chapters, list) else []
    )
    for chapter in values.first("chapters", listed, site_limits.MAX_CHAPTERS):
        start = number(chapter.get("start_time"), site_limits.MAX_SECONDS)
        if start is not None:
            title = values.text("titles of chapters", chapter.get("title"), site_limits.MAX_TITLE)
            end = _seconds(chapter.get("end_time"))
            yield Chapter(title=title, start=to_duration(start), end=to_duration(end))


def _set_duration(field: duration_pb2.Duration, seconds: Any) -> None:
    if duration := _seconds(seconds):
        field.CopyFrom(to_duration(duration))


def _set_time(field: timestamp_pb2.Timestamp, seconds: Any) -> None:
    if (valid := site_limits.timestamp(seconds)) is not None:
        field.FromSeconds(valid)


def _seconds(value: Any) -> float:
    return number(value, site_limits.MAX_SECONDS) or 0.0


def _int32(value: Any) -> int:
    return whole(value, site_limits.MAX_INT32) or 0


def _code(value: Any) -> str:
    """Return a language, codec, container or protocol; the beginning of a longer one says nothing."""
    text, is_cut = site_limits.shorten(value, site_limits.MAX_CODE)
    return "" if is_cut else text


def _language(value: Any) -> str:
    """Return a site's label of a language as BCP-47; empty if it names none."""
    return _known(languages.to_tag(clean(value)))


def _known(tag: str) -> str:
    return "" if tag == languages.UNDETERMINED else tag
