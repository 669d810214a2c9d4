"""Files beside the media: subtitles, thumbnail, metadata. One that is missing is a warning, not a failure."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format
from yt_dlp.networking import Request
from yt_dlp.utils import YoutubeDLError

from reelhaul import file_names
from reelhaul.type.v1.media_pb2 import ArtifactInfo, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.captions import Sidecars, Translate, fetch_subtitles
from reelhaul_fetcher.ytdlp.downloader import Downloader, read_body
from reelhaul_fetcher.ytdlp.extraction import Source

_MAX_THUMBNAIL_BYTES = 20 * 1024 * 1024


def fetch_sidecars(
    source: Source,
    media: MediaInfo,
    request: FetchRequest,
    cut: Cut,
    tracker: ProgressTracker,
    translate: Translate,
) -> Sidecars:
    """Return the files beside the media that *request* asks for, with *cut* applied.

    Raises SUBTITLES_UNAVAILABLE or TRANSLATION_UNAVAILABLE if they are required.
    """
    spec, sidecars = request.format, Sidecars()
    if spec.HasField("subtitles") or spec.thumbnail:
        tracker.begin_stage(Progress.FETCHING_EXTRAS)
    if spec.HasField("subtitles"):
        sidecars = fetch_subtitles(source.downloader, source.info, media, request, cut, translate)
    if spec.thumbnail:
        if thumbnail := _fetch_thumbnail(source.downloader, media, request.folder):
            sidecars.products.append(thumbnail)
            sidecars.thumbnail = thumbnail.path
        else:
            text = "the thumbnail could not be downloaded"
            sidecars.warnings.append(MediaWarning(reason=MediaWarning.THUMBNAIL_MISSING, message=text))
    if spec.info_json:
        sidecars.products.append(_write_metadata(media, request.folder))
    return sidecars


def _fetch_thumbnail(downloader: Downloader, media: MediaInfo, folder: Path) -> Product | None:
    """Return the thumbnail of *media* as a JPEG; None if it cannot be downloaded or read."""
    if not media.thumbnail_url:
        return None
    original, jpeg = folder / "thumbnail.raw", folder / "thumbnail.jpg"
    try:
        original.write_bytes(read_body(downloader, Request(media.thumbnail_url), _MAX_THUMBNAIL_BYTES))
        ffmpeg.to_jpeg(original, jpeg)
    except (YoutubeDLError, OSError, ValueError, ffmpeg.FfmpegFailed):
        return None
    finally:
        original.unlink(missing_ok=True)
    return Product.from_file(jpeg, ArtifactInfo.THUMBNAIL, file_names.from_title(media.title, "jpg"))


def _write_metadata(media: MediaInfo, folder: Path) -> Product:
    path = folder / "info.json"
    path.write_text(json_format.MessageToJson(media, ensure_ascii=False), encoding="utf-8")
    name = file_names.from_title(media.title, "json", infix="info")
    return Product.from_file(path, ArtifactInfo.INFO, name)
