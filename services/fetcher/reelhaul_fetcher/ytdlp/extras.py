"""What goes with the media: thumbnail and metadata. Their lack is a warning, not an end."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format
from yt_dlp.networking import Request
from yt_dlp.utils import YoutubeDLError

from reelhaul.type.v1.media_pb2 import ArtifactInfo, MediaInfo
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.model import names
from reelhaul_fetcher.model.orders import Product
from reelhaul_fetcher.ytdlp.downloader import Downloader, body
from reelhaul_fetcher.ytdlp.products import product

_MAX_THUMBNAIL = 20 * 1024 * 1024


def thumbnail(downloader: Downloader, media: MediaInfo, folder: Path) -> Product | None:
    """The thumbnail of *media* as JPEG in *folder*; None where it cannot be had."""
    if not media.thumbnail_url:
        return None
    raw, picture = folder / "thumbnail.raw", folder / "thumbnail.jpg"
    try:
        raw.write_bytes(body(downloader, Request(media.thumbnail_url), _MAX_THUMBNAIL))
        ffmpeg.to_jpeg(raw, picture)
    except (YoutubeDLError, OSError, ValueError, ffmpeg.FfmpegFailed):
        return None
    finally:
        raw.unlink(missing_ok=True)
    return product(picture, ArtifactInfo.THUMBNAIL, names.file_name(media.title, "jpg"))


def metadata(media: MediaInfo, folder: Path) -> Product:
    """*media* as JSON in *folder*."""
    path = folder / "info.json"
    path.write_text(json_format.MessageToJson(media, ensure_ascii=False), encoding="utf-8")
    return product(path, ArtifactInfo.INFO, names.file_name(media.title, "json", infix="info"))
