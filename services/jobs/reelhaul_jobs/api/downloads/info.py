"""What a site says of a URL, as GetInfo tells it."""

from __future__ import annotations

from reelhaul.downloads.v1.download_service_pb2 import GetInfoResponse
from reelhaul.fetcher.v1.fetcher_service_pb2 import ProbeMediaResponse
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_jobs.api.downloads import choices, responses
from reelhaul_jobs.api.downloads.durations import of


def info(answer: ProbeMediaResponse, asked: FormatSpec) -> GetInfoResponse:
    """*answer* of the fetcher, flat; the estimate is for *asked*."""
    media = answer.media
    told = GetInfoResponse(
        url=media.url,
        extractor=media.extractor,
        media_id=media.media_id,
        title=media.title,
        description=media.description,
        uploader=media.uploader,
        thumbnail=media.thumbnail_url,
        live_status=media.live_status,
        qualities=_qualities(media),
        formats=[_format(one) for one in media.formats],
        subtitles=[_subtitle(track) for track in media.subtitle_tracks],
        chapters=[_chapter(chapter) for chapter in media.chapters],
        entries=[_entry(entry) for entry in media.entries],
        entry_count=media.entry_count,
    )
    if media.HasField("duration"):
        told.duration = of(media.duration)
    if media.HasField("publish_time"):
        told.publish_time.CopyFrom(media.publish_time)
    if answer.HasField("estimate"):
        told.estimate.CopyFrom(responses.estimate(answer.estimate, asked))
    if answer.HasField("probe_time"):
        told.probe_time.CopyFrom(answer.probe_time)
    return told


def _qualities(media: media_pb2.MediaInfo) -> list[str]:
    """Rungs of the ladder that asking for would deliver something of their own, best first."""
    offered = {_lines(one) for one in media.formats if one.video_codec} - {0}
    rungs = [
        next((rung for rung, low in choices.HEIGHTS.items() if low <= lines), "144p") for lines in offered
    ]
    return [rung for rung in choices.HEIGHTS if rung in rungs]


def _lines(one: media_pb2.Format) -> int:
    return min(one.width, one.height) if one.width and one.height else one.height


def _format(one: media_pb2.Format) -> GetInfoResponse.Format:
    told = GetInfoResponse.Format(
        format_id=one.format_id,
        container=one.container,
        quality=responses.quality_of(one.width, one.height),
        width=one.width,
        height=one.height,
        # Through text: a float of 29.97 is no double of 29.97.
        fps=float(f"{one.frame_rate:.6g}"),
        video_codec=one.video_codec,
        audio_codec=one.audio_codec,
        bitrate=one.bitrate_bps,
        language=one.language_code,
        hdr=one.dynamic_range,
    )
    if one.size_bytes:
        told.size_bytes = one.size_bytes
    return told


def _subtitle(track: media_pb2.SubtitleTrack) -> GetInfoResponse.Subtitle:
    return GetInfoResponse.Subtitle(language=track.language_code, kind=track.kind, name=track.display_name)


def _chapter(chapter: media_pb2.Chapter) -> GetInfoResponse.Chapter:
    return GetInfoResponse.Chapter(
        title=chapter.title, start_seconds=of(chapter.start), end_seconds=of(chapter.end)
    )


def _entry(entry: media_pb2.PlaylistEntry) -> GetInfoResponse.Entry:
    told = GetInfoResponse.Entry(url=entry.url, title=entry.title)
    if entry.HasField("duration"):
        told.duration = of(entry.duration)
    return told
