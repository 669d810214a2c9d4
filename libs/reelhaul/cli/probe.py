"""``reelhaul probe`` and ``formats``: show what a URL offers, without downloading it."""

from __future__ import annotations

import click

from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import (
    as_json_value,
    emit_json,
    format_bytes,
    format_duration,
    format_enum,
    print_table,
    print_values,
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
@click.option("-x", "--audio-only", is_flag=True, help="Estimate for audio without video.")
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
    print_values(_summary(info))
    _print_streams(info)
    for line in [*_format_subtitles(info), *_format_entries(info)]:
        click.echo(printable(line))


@click.command()
@click.argument("url")
@click.option(
    "--cookies", default="", metavar="NAME", help="Name of cookies at the server to send to the site."
)
@client_command
def formats(url: str, cookies: str, connect: Connect, as_json: bool) -> None:
    """List the streams that URL offers, worst first.

    The quality is what `reelhaul download -q` takes.
    """
    with connect() as client:
        info = client.probe(url, cookies=cookies)
    if as_json:
        for stream in info.formats:
            emit_json(as_json_value(stream))
        return
    _print_streams(info)


def _summary(info: GetInfoResponse) -> dict[str, str]:
    live = "" if info.live_status <= MediaInfo.NOT_LIVE else MediaInfo.LiveStatus.Name(info.live_status)
    return {
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


def _format_estimate(info: GetInfoResponse) -> str:
    estimate = info.estimate
    parts = [estimate.quality, estimate.format]
    if estimate.HasField("size_bytes"):
        parts.append(f"about {format_bytes(estimate.size_bytes)}")
    return " ".join(filter(None, parts))


def _print_streams(info: GetInfoResponse) -> None:
    names = ("format", "container", "quality", "fps", "video", "audio", "language", "rate", "size")
    print_table(names, map(_stream_columns, info.formats))


def _stream_columns(stream: GetInfoResponse.Format) -> list[str]:
    return [
        stream.format_id,
        stream.container,
        f"{stream.quality} {stream.hdr}".strip(),
        f"{stream.fps:g}" if stream.fps else "",
        stream.video_codec,
        stream.audio_codec,
        stream.language,
        f"{stream.bitrate / 1000:.0f} kbit/s" if stream.bitrate else "",
        format_bytes(stream.size_bytes) if stream.HasField("size_bytes") else "",
    ]


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
