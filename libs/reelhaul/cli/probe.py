"""``reelhaul probe``: what a URL holds, without downloading it."""

from __future__ import annotations

import click

from reelhaul.cli.options import as_json_value, client_command, emit_json
from reelhaul.cli.output import format_bytes, format_duration, printable, word
from reelhaul.downloads.v1.download_service_pb2 import GetInfoResponse
from reelhaul.rest import Client
from reelhaul.type.v1.media_pb2 import MediaInfo, SubtitleTrack


@click.command()
@click.argument("url")
@click.option("-q", "--quality", default="", help="For the estimate, as in `reelhaul download`.")
@click.option("-f", "--format", "format_", default="", help="For the estimate, as in `reelhaul download`.")
@click.option("-a", "--audio-only", is_flag=True, help="For the estimate: audio without video.")
@click.option("--cookies", default="", metavar="NAME", help="Cookies kept at the server, to ask with.")
@client_command
def probe(
    url: str, quality: str, format_: str, audio_only: bool, cookies: str, server: str, as_json: bool
) -> None:
    """Tell what URL holds: title, formats, subtitles, and what a download would take."""
    with Client(server) as client:
        info = client.info(url=url, quality=quality, format=format_, audio_only=audio_only, cookies=cookies)
    if as_json:
        emit_json(as_json_value(info))
        return
    for line in [*_about(info), *_formats(info), *_subtitles(info), *_entries(info)]:
        click.echo(printable(line))


def _about(info: GetInfoResponse) -> list[str]:
    told = {
        "title": info.title,
        "uploader": info.uploader,
        "url": info.url,
        "site": info.extractor,
        "length": format_duration(info.duration) if info.HasField("duration") else "",
        "live": "" if info.live_status <= MediaInfo.NOT_LIVE else _live(info),
        "qualities": " ".join(info.qualities),
        "would take": _estimate(info) if info.HasField("estimate") else "",
        "chapters": str(len(info.chapters) or ""),
    }
    return [f"{name + ':':12}{text}" for name, text in told.items() if text]


def _live(info: GetInfoResponse) -> str:
    return word(MediaInfo.LiveStatus.Name(info.live_status))


def _estimate(info: GetInfoResponse) -> str:
    estimate = info.estimate
    told = [estimate.quality, estimate.format]
    if estimate.HasField("size_bytes"):
        told.append(f"about {format_bytes(estimate.size_bytes)}")
    return " ".join(filter(None, told))


def _formats(info: GetInfoResponse) -> list[str]:
    rows = [("format", "container", "quality", "video", "audio", "size")] if info.formats else []
    for one in info.formats:
        bytes_ = format_bytes(one.size_bytes) if one.HasField("size_bytes") else ""
        rows.append((one.format_id, one.container, one.quality, one.video_codec, one.audio_codec, bytes_))
    widths = [max(len(row[place]) for row in rows) for place in range(6)] if rows else []
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _subtitles(info: GetInfoResponse) -> list[str]:
    kinds = SubtitleTrack.Kind
    return [f"subtitles {one.language}  {word(kinds.Name(one.kind))}  {one.name}" for one in info.subtitles]


def _entries(info: GetInfoResponse) -> list[str]:
    lines = [f"{place:5}  {one.title}  {one.url}" for place, one in enumerate(info.entries, 1)]
    if more := max(0, info.entry_count - len(info.entries)):
        lines.append(f"and {more} more entries")
    return lines
