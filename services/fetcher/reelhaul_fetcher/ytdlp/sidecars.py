"""What goes with the media: subtitles, thumbnail, metadata. Their lack is a warning, not an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import json_format
from yt_dlp.networking import Request
from yt_dlp.utils import YoutubeDLError

from reelhaul import file_names
from reelhaul.type.v1.media_pb2 import ArtifactInfo, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.media.muxer import SubtitleFile
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product, product
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.captions import Translate, captions
from reelhaul_fetcher.ytdlp.downloader import Downloader, body
from reelhaul_fetcher.ytdlp.extraction import Source

_MAX_THUMBNAIL = 20 * 1024 * 1024


@dataclass(slots=True)
class Extras:
    """What goes with the media, what of it goes into its file, and what is missing."""

    products: list[Product] = field(default_factory=list)
    words: list[SubtitleFile] = field(default_factory=list)
    picture: Path | None = None
    warnings: list[Warned] = field(default_factory=list)


def fetch_sidecars(
    source: Source,
    media: MediaInfo,
    order: FetchRequest,
    cut: Cut,
    gauge: ProgressTracker,
    translate: Translate,
) -> Extras:
    """What *order* asks for, as it is after *cut*, and a warning for each that is missing.

    Raises SUBTITLES_UNAVAILABLE, TRANSLATION_UNAVAILABLE where they were required.
    """
    asked, told = order.format, Extras()
    if asked.HasField("subtitles") or asked.thumbnail:
        gauge.begin_stage(Progress.FETCHING_EXTRAS)
    if asked.HasField("subtitles"):
        found = captions(source.downloader, source.info, media, order, cut, translate)
        told = Extras(found.products, found.words, warnings=found.warnings)
    if asked.thumbnail:
        if picture := _thumbnail(source.downloader, media, order.folder):
            told.products.append(picture)
            told.picture = picture.path
        else:
            text = "the thumbnail could not be fetched"
            told.warnings.append(Warned(reason=Warned.THUMBNAIL_MISSING, message=text))
    if asked.info_json:
        told.products.append(_metadata(media, order.folder))
    return told


def _thumbnail(downloader: Downloader, media: MediaInfo, folder: Path) -> Product | None:
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
    return product(picture, ArtifactInfo.THUMBNAIL, file_names.from_title(media.title, "jpg"))


def _metadata(media: MediaInfo, folder: Path) -> Product:
    """*media* as JSON in *folder*."""
    path = folder / "info.json"
    path.write_text(json_format.MessageToJson(media, ensure_ascii=False), encoding="utf-8")
    return product(path, ArtifactInfo.INFO, file_names.from_title(media.title, "json", infix="info"))
