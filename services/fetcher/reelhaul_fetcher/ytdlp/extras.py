"""What goes with the media: subtitles, thumbnail, metadata. Their lack is a warning, not an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import json_format
from yt_dlp.networking import Request
from yt_dlp.utils import YoutubeDLError

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, MediaInfo, Progress
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.model import names, subtitles
from reelhaul_fetcher.model.gauge import Gauge
from reelhaul_fetcher.model.orders import FetchOrder, Product
from reelhaul_fetcher.model.selection import same_language
from reelhaul_fetcher.ytdlp import fetching
from reelhaul_fetcher.ytdlp.downloader import Downloader, supported
from reelhaul_runtime.errors import ReelhaulError

Info = dict[str, Any]
Extras = tuple[list[Product], list[media_pb2.Warning]]

_MAX_SUBTITLE = 16 * 1024 * 1024
_MAX_THUMBNAIL = 20 * 1024 * 1024
# Without rolling lines first, then by how well they are read.
_READABLE = ("json3", "vtt", "srt")


def fetched(downloader: Downloader, info: Info, media: MediaInfo, order: FetchOrder, gauge: Gauge) -> Extras:
    """Subtitles, thumbnail and metadata as *order* asks, and a warning for each that is missing.

    Raises SUBTITLES_UNAVAILABLE where they were required.
    """
    products: list[Product] = []
    warnings: list[media_pb2.Warning] = []
    asked = order.format
    if asked.HasField("subtitles") or asked.thumbnail:
        gauge.stage(Progress.FETCHING_EXTRAS)
    if asked.HasField("subtitles"):
        products, warnings = _subtitles(downloader, info, media, order)
    if asked.thumbnail:
        if found := _thumbnail(downloader, media, order.folder):
            products.append(found)
        else:
            text = "the thumbnail could not be fetched"
            warnings.append(media_pb2.Warning(reason=media_pb2.Warning.THUMBNAIL_MISSING, message=text))
    if asked.info_json:
        path = order.folder / "info.json"
        path.write_text(json_format.MessageToJson(media, ensure_ascii=False), encoding="utf-8")
        name = names.file_name(media.title, "json", infix="info")
        products.append(fetching.product(path, ArtifactInfo.INFO, name))
    return products, warnings


def _subtitles(downloader: Downloader, info: Info, media: MediaInfo, order: FetchOrder) -> Extras:
    asked = order.format.subtitles
    products: list[Product] = []
    missing: list[str] = []
    for language, track in _wanted(info, asked).items():
        cues = _cues(downloader, info, track, order.folder) if track else []
        if not cues:
            missing.append(language)
            continue
        code = language.removesuffix("-orig")
        for form in asked.formats or [FormatSpec.Subtitles.SRT]:
            extension = subtitles.EXTENSION[form]
            path = order.folder / f"subtitle{len(products)}.{extension}"
            path.write_text(subtitles.write(cues, form), encoding="utf-8")
            name = names.file_name(media.title, extension, infix=_safe(code))
            products.append(fetching.product(path, ArtifactInfo.SUBTITLE, name, code))
    if missing and asked.required:
        raise ReelhaulError(
            ErrorReason.SUBTITLES_UNAVAILABLE,
            f"no subtitles in {', '.join(missing)}",
            metadata={"languages": ",".join(missing)},
        )
    return products, [
        media_pb2.Warning(
            reason=media_pb2.Warning.SUBTITLES_MISSING, message=f"no subtitles in {lang}", language_code=lang
        )
        for lang in missing
    ]


def _wanted(info: Info, asked: FormatSpec.Subtitles) -> dict[str, list[Info]]:
    """Forms of the track to take for each language asked; no forms where none is offered."""
    kinds = asked.kinds
    manual = {} if kinds == FormatSpec.Subtitles.AUTO else dict(info.get("subtitles") or {})
    manual.pop("live_chat", None)
    auto = {} if kinds == FormatSpec.Subtitles.MANUAL else dict(info.get("automatic_captions") or {})
    spoken = str(info.get("language") or "")
    wanted: dict[str, list[Info]] = {}
    for language in asked.languages or ["original"]:
        if language == "all":
            wanted |= {code: forms for code, forms in auto.items() if code.endswith("-orig")} | manual
            continue
        code = _match(manual, language, spoken) or _match(auto, language, spoken)
        if code is None:
            wanted[language] = []
        else:
            wanted[code] = manual.get(code) or auto[code]
    return wanted


def _match(tracks: dict[str, Any], language: str, spoken: str) -> str | None:
    """The track for *language*; the exact one before a kind of it."""
    if language == "original":
        originals = [code for code in tracks if code.endswith("-orig")]
        if originals or (len(tracks) == 1 and not spoken):
            return (originals or list(tracks))[0]
        if not spoken:
            # Nothing tells which is spoken; sites put their own first.
            return next(iter(tracks), None)
        language = spoken
    exact = [code for code in (language, f"{language}-orig") if code in tracks]
    return next(iter(exact or [code for code in tracks if same_language(code, language)]), None)


def _cues(downloader: Downloader, info: Info, forms: list[Info], folder: Path) -> list[subtitles.Cue]:
    """The track's cues; none where no form of it can be fetched or read."""
    ranked = sorted(
        (form for form in forms if form.get("ext") in _READABLE),
        key=lambda form: _READABLE.index(form["ext"]),
    )
    automatic = forms is not None and any(
        forms is track for track in (info.get("automatic_captions") or {}).values()
    )
    for form in ranked:
        try:
            cues = subtitles.read(_text_of(downloader, form, folder), form["ext"])
        except (YoutubeDLError, OSError, ValueError):
            continue
        return subtitles.without_rolling(cues) if automatic and form["ext"] != "json3" else cues
    return []


def _text_of(downloader: Downloader, form: Info, folder: Path) -> str:
    if form.get("data") is not None:
        return str(form["data"])[:_MAX_SUBTITLE]
    if str(form.get("protocol") or "").startswith("m3u8"):
        return _segmented(downloader, form, folder)
    headers = form.get("http_headers") or {}
    return _body(downloader, form["url"], _MAX_SUBTITLE, headers).decode("utf-8-sig", "replace")


def _segmented(downloader: Downloader, form: Info, folder: Path) -> str:
    """A track of an HLS master: segments of WebVTT, joined by yt-dlp's native downloader."""
    if not supported("m3u8_native"):
        raise OSError("no native downloader")
    path = folder / "track.vtt"
    track = {**form, "protocol": "m3u8_native", "ext": "vtt", "id": "track", "title": "track"}
    try:
        downloader.dl(str(path), track, subtitle=True)
        with path.open("rb") as file:
            return file.read(_MAX_SUBTITLE).decode("utf-8-sig", "replace")
    finally:
        path.unlink(missing_ok=True)


def _thumbnail(downloader: Downloader, media: MediaInfo, folder: Path) -> Product | None:
    if not media.thumbnail_url:
        return None
    raw, picture = folder / "thumbnail.raw", folder / "thumbnail.jpg"
    try:
        raw.write_bytes(_body(downloader, media.thumbnail_url, _MAX_THUMBNAIL, {}))
        ffmpeg.to_jpeg(raw, picture)
    except (YoutubeDLError, OSError, ffmpeg.FfmpegFailed):
        return None
    finally:
        raw.unlink(missing_ok=True)
    return fetching.product(picture, ArtifactInfo.THUMBNAIL, names.file_name(media.title, "jpg"))


def _body(downloader: Downloader, url: str, limit: int, headers: dict[str, str]) -> bytes:
    """What *url* answers. ValueError above *limit* bytes."""
    answer = downloader.urlopen(Request(url, headers=headers))
    try:
        body: bytes = answer.read(limit + 1)
    finally:
        answer.close()
    if len(body) > limit:
        raise ValueError(f"{url} answers with more than {limit} bytes")
    return body


def _safe(code: str) -> str:
    return "".join(c for c in code if c.isalnum() or c in "-_")[:35]
