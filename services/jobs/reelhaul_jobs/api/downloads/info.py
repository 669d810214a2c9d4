"""GetInfo: conversion of what the fetcher reads of a URL."""

from __future__ import annotations

from reelhaul import qualities
from reelhaul.downloads.v1.download_service_pb2 import GetInfoResponse
from reelhaul.fetcher.v1.fetcher_service_pb2 import ProbeMediaResponse
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.downloads import choices, responses


def info_response(probe: ProbeMediaResponse, spec: FormatSpec) -> GetInfoResponse:
    """Return *probe*, flat; its estimate is for *spec*."""
    media = probe.media
    response = GetInfoResponse(
        url=media.url,
        extractor=media.extractor,
        media_id=media.media_id,
        title=media.title,
        description=media.description,
        uploader=media.uploader,
        thumbnail=media.thumbnail_url,
        live_status=media.live_status,
        qualities=_qualities(media),
        formats=[_format(each) for each in media.formats],
        subtitles=[_subtitle(track) for track in media.subtitle_tracks],
        chapters=[_chapter(chapter) for chapter in media.chapters],
        entries=[_entry(entry) for entry in media.entries],
        entry_count=media.entry_count,
    )
    if media.HasField("duration"):
        response.duration = fields.to_seconds(media.duration)
    if media.HasField("publish_time"):
        response.publish_time.CopyFrom(media.publish_time)
    if probe.HasField("estimate"):
        response.estimate.CopyFrom(responses.estimate(probe.estimate, spec))
    if probe.HasField("probe_time"):
        response.probe_time.CopyFrom(probe.probe_time)
    return response


def _qualities(media: media_pb2.MediaInfo) -> list[str]:
    """Return the qualities that would each deliver something else, the best first."""
    offered = {_quality(each) for each in media.formats if not each.drm}
    return [quality for quality in choices.HEIGHTS if quality in offered]


def _quality(each: media_pb2.Format) -> str:
    """Return the quality by which *each* can be requested; empty without a picture of known size."""
    if not each.video_codec or not each.height:
        return ""
    return f"{qualities.classify(each.width, each.height) or qualities.CLASSES[-1]}p"


def _format(each: media_pb2.Format) -> GetInfoResponse.Format:
    message = GetInfoResponse.Format(
        format_id=each.format_id,
        container=each.container,
        quality=_quality(each),
        width=each.width,
        height=each.height,
        # Through text: the float nearest to 29.97 is not the double nearest to it.
        fps=float(f"{each.frame_rate:.6g}"),
        video_codec=each.video_codec,
        audio_codec=each.audio_codec,
        bitrate=each.bitrate_bps,
        language=each.language_code,
        hdr=each.dynamic_range,
        role=each.role,
    )
    if each.size_bytes:
        message.size_bytes = each.size_bytes
    return message


def _subtitle(track: media_pb2.SubtitleTrack) -> GetInfoResponse.Subtitle:
    return GetInfoResponse.Subtitle(
        language=track.language_code, kind=track.kind, name=track.display_name, role=track.role
    )


def _chapter(chapter: media_pb2.Chapter) -> GetInfoResponse.Chapter:
    return GetInfoResponse.Chapter(
        title=chapter.title,
        start_seconds=fields.to_seconds(chapter.start),
        end_seconds=fields.to_seconds(chapter.end),
    )


def _entry(entry: media_pb2.PlaylistEntry) -> GetInfoResponse.Entry:
    message = GetInfoResponse.Entry(url=entry.url, title=entry.title)
    if entry.HasField("duration"):
        message.duration = fields.to_seconds(entry.duration)
    return message
