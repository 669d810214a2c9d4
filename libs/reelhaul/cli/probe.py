"""``reelhaul probe``: shows what a URL offers, without downloading it."""

from __future__ import annotations

import click

from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import (
    as_json_value,
    emit_json,
    format_bytes,
    format_duration,
    format_enum,
    printable,
)
from reelhaul.downloads.v1.download_service_pb2 import GetInfoResponse
from reelhaul.type.v1.media_pb2 import MediaInfo, SubtitleTrack, TrackRole


@click.command()
@click.argument("url")
@click.option("-q", "--quality", default="", help="Estimate for this quality, as in `reelhaul download`.")
@click.option(
    "-f", "--format", "format_", default="", help="Estimate for this format, as in `reelhaul download`."
)
@click.option("-a", "--audio-only", is_flag=True, help="Estimate for audio without video.")
@click.option(
    "--cookies", default="", metavar="NAME", help="Name of cookies at the server to send to the site."
)
@client_command
def probe(
    url: str, quality: str, format_: str, audio_only: bool, cookies: str, connect: Connect, as_json: bool
) -> None:
    """Show what URL offers: title, formats, subtitles, and an estimate of the download."""
    with connect() as client:
        info = client.probe(url, quality=quality, format=format_, audio_only=audio_only, cookies=cookies)
    if as_json:
        emit_json(as_json_value(info))
        return
    for line in [
        *_format_summary(info),
        *_format_streams(info),
        *_format_subtitles(info),
        *_format_entries(info),
    ]:
        click.echo(printable(line))


def _format_summary(info: GetInfoResponse) -> list[str]:
    live = "" if info.live_status <= MediaInfo.NOT_LIVE else MediaInfo.LiveStatus.Name(info.live_status)
    values = {
        "title": info.title,
        "uploader": info.uploader,
        "url": info.url,
        "site": info.extractor,
        "length": format_duration(info.duration) if info.HasField("duration") else "",
        "live": format_enum(live),
        "qualities": " ".join(info.qualities),
        "estimate": _format_estimate(info) if info.HasField("estimate") else "",
        "chapters": str(len(info.chapters) or ""),
    }
    return [f"{name + ':':12}{value}" for name, value in values.items() if value]


def _format_estimate(info: GetInfoResponse) -> str:
    estimate = info.estimate
    parts = [estimate.quality, estimate.format]
    if estimate.HasField("size_bytes"):
        parts.append(f"about {format_bytes(estimate.size_bytes)}")
    return " ".join(filter(None, parts))


def _format_streams(info: GetInfoResponse) -> list[str]:
    rows = [("format", "container", "quality", "video", "audio", "size")] if info.formats else []
    for stream in info.formats:
        size = format_bytes(stream.size_bytes) if stream.HasField("size_bytes") else ""
        rows.append(
            (stream.format_id, stream.container, stream.quality, stream.video_codec, stream.audio_codec, size)
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)] if rows else []
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _format_subtitles(info: GetInfoResponse) -> list[str]:
    return [
        f"subtitles {track.language}  {format_enum(SubtitleTrack.Kind.Name(track.kind))}  {track.name}"
        + (f"  ({_format_role(track.role)})" if track.role else "")
        for track in info.subtitles
    ]


def _format_role(role: TrackRole.ValueType) -> str:
    return format_enum(TrackRole.Name(role)).removeprefix("track role ")


def _format_entries(info: GetInfoResponse) -> list[str]:
    lines = [f"{number:5}  {entry.title}  {entry.url}" for number, entry in enumerate(info.entries, 1)]
    if more := max(0, info.entry_count - len(info.entries)):
        lines.append(f"and {more} more entries")
    return lines
