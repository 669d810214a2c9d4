"""Files beside the media: subtitles, thumbnail, metadata. A missing file is a warning, not a failure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from google.protobuf import json_format
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils import YoutubeDLError

from reelhaul import file_names
from reelhaul.type.v1.media_pb2 import ArtifactInfo, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.model.site_limits import MAX_URL
from reelhaul_fetcher.ytdlp.downloader import read_body
from reelhaul_fetcher.ytdlp.extract.extraction import Source
from reelhaul_fetcher.ytdlp.extras.captions import Sidecars, Translate, fetch_subtitles
from reelhaul_fetcher.ytdlp.extras.sidecar_timer import SidecarTimer, SidecarTooSlow

_MAX_THUMBNAIL_BYTES = 20 * 1024 * 1024
# YouTube has 38 for each video, of which the first 12 show its picture.
_MAX_THUMBNAILS = 20


def fetch_sidecars(
    source: Source,
    media: MediaInfo,
    request: FetchRequest,
    tracker: ProgressTracker,
    translate: Translate,
) -> Sidecars:
    """Return the files beside the media that *request* selects, and the subtitles to write.

    Raises SUBTITLES_UNAVAILABLE or TRANSLATION_UNAVAILABLE if they are required.
    """
    spec, sidecars = request.format, Sidecars()
    if spec.HasField("subtitles") or spec.thumbnail:
        tracker.begin_stage(Progress.FETCHING_EXTRAS)
    timer = SidecarTimer(request.idle_seconds)
    if spec.HasField("subtitles"):
        sidecars = fetch_subtitles(source.downloader, source.info, request, translate, timer)
    if spec.thumbnail:
        if thumbnail := _fetch_thumbnail(source, media, request.folder, timer):
            sidecars.products.append(thumbnail)
            sidecars.thumbnail = thumbnail.path
        else:
            text = "the thumbnail could not be downloaded or read"
            sidecars.warnings.append(MediaWarning(reason=MediaWarning.THUMBNAIL_MISSING, message=text))
    if spec.info_json:
        sidecars.products.append(_write_metadata(media, request.folder))
    return sidecars


def _fetch_thumbnail(source: Source, media: MediaInfo, folder: Path, timer: SidecarTimer) -> Product | None:
    """Return the best thumbnail that can be downloaded and read, as a JPEG; None if there is none."""
    original, jpeg = folder / "thumbnail.raw", folder / "thumbnail.jpg"
    downloader = source.downloader
    for url in islice(_thumbnail_urls(source, media), _MAX_THUMBNAILS):
        try:
            # Sites and extractors list thumbnails that may not exist.
            with downloader.logging_paused(), timer.limit():
                original.write_bytes(read_body(downloader, Request(url), _MAX_THUMBNAIL_BYTES))
            ffmpeg.to_jpeg(original, jpeg)
        except (HTTPError, ValueError, ffmpeg.FfmpegFailed):
            continue
        except (YoutubeDLError, OSError, SidecarTooSlow):
            break
        finally:
            original.unlink(missing_ok=True)
        return Product.from_file(jpeg, ArtifactInfo.THUMBNAIL, file_names.from_title(media.title, "jpg"))
    return None


def _thumbnail_urls(source: Source, media: MediaInfo) -> Iterator[str]:
    """Yield the URLs of the thumbnails, each once, best first."""
    yielded = {""}
    listed = source.info.get("thumbnails")
    # yt-dlp sorts them from worst to best.
    others = (
        [item.get("url") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    )
    for url in (media.thumbnail_url, *reversed(others)):
        if isinstance(url, str) and url not in yielded and len(url) <= MAX_URL:
            yielded.add(url)
            yield url


def _write_metadata(media: MediaInfo, folder: Path) -> Product:
    path = folder / "info.json"
    path.write_text(json_format.MessageToJson(media, ensure_ascii=False), encoding="utf-8")
    name = file_names.from_title(media.title, "json", infix="info")
    return Product.from_file(path, ArtifactInfo.INFO, name)
