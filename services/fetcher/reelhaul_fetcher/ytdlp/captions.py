"""Subtitles: downloaded, translated and written apart from the media, whose download they must not fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from yt_dlp.networking import Request
from yt_dlp.utils import ISO639Utils, YoutubeDLError

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media.muxer import SubtitleFile
from reelhaul_fetcher.model import subtitles
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.selection import matches_language
from reelhaul_fetcher.model.subtitles import SubtitleTrack, find_site_translation, select_tracks
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info, read_body
from reelhaul_runtime.errors import ReelhaulError

#: Translates texts from a language into another. Raises TRANSLATION_UNAVAILABLE.
Translate = Callable[[list[str], str, str], list[str]]

_MAX_SUBTITLE_BYTES = 16 * 1024 * 1024
# Formats that we read, best first: json3 has no rolling lines.
_READABLE = ("json3", "vtt", "srt")
# What yt-dlp and we raise for a track: it is missing then, whatever value of the site is the cause.
_UNREADABLE = (
    YoutubeDLError,
    OSError,
    ValueError,
    TypeError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
)


@dataclass(slots=True)
class Sidecars:
    """Files beside the media, what of them goes into the media file, and what is missing."""

    products: list[Product] = field(default_factory=list)
    embedded_subtitles: list[SubtitleFile] = field(default_factory=list)
    #: A JPEG.
    thumbnail: Path | None = None
    warnings: list[MediaWarning] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Track:
    language: str
    source: SubtitleTrack
    cues: list[subtitles.Cue]


def fetch_subtitles(
    downloader: Downloader,
    info: Info,
    media: MediaInfo,
    request: FetchRequest,
    cut: Cut,
    translate: Translate,
) -> Sidecars:
    """Return the subtitles that *request* asks for, with *cut* applied.

    Raises SUBTITLES_UNAVAILABLE or TRANSLATION_UNAVAILABLE if they are required.
    """
    spec = request.format.subtitles
    tracks: list[_Track] = []
    missing: list[str] = []
    for label, source in select_tracks(info, spec):
        cues = _fetch_cues(downloader, source, request.folder) if source else []
        if source and cues:
            tracks.append(_Track(source.language, source, cues))
        else:
            missing.append(label)
    subtitles_only = request.format.media_kind == FormatSpec.SUBTITLES_ONLY
    if missing and (spec.required or (subtitles_only and not tracks)):
        raise _unavailable(missing)
    sidecars = Sidecars(
        warnings=[
            MediaWarning(
                reason=MediaWarning.SUBTITLES_MISSING, message=f"no subtitles in {label}", language_code=label
            )
            for label in missing
        ]
    )
    if spec.translate_to and (not tracks or not matches_language(tracks[0].language, spec.translate_to)):
        _add_translation(downloader, info, tracks, request, sidecars, translate)
    for track in tracks:
        _write(track, media, request, cut, sidecars)
    return sidecars


def _add_translation(
    downloader: Downloader,
    info: Info,
    tracks: list[_Track],
    request: FetchRequest,
    sidecars: Sidecars,
    translate: Translate,
) -> None:
    """Add a translation of the first of *tracks*: the site's own if there is one, else *translate*'s."""
    language = request.format.subtitles.translate_to
    try:
        if not tracks:
            raise _nothing_to_translate(language)
        source = find_site_translation(info, tracks[0].source, language)
        cues = _fetch_cues(downloader, source, request.folder) if source else []
        if not cues:
            original = tracks[0].cues
            texts = translate([cue.text for cue in original], tracks[0].language, language)
            cues = [
                subtitles.Cue(cue.start, cue.end, text) for cue, text in zip(original, texts, strict=True)
            ]
        tracks.append(_Track(language, tracks[0].source, cues))
    except ReelhaulError as error:
        if request.format.subtitles.required or error.reason != ErrorReason.TRANSLATION_UNAVAILABLE:
            raise
        sidecars.warnings.append(
            MediaWarning(reason=MediaWarning.TRANSLATION_MISSING, message=error.text, language_code=language)
        )


def _write(track: _Track, media: MediaInfo, request: FetchRequest, cut: Cut, sidecars: Sidecars) -> None:
    spec = request.format.subtitles
    cues = subtitles.apply_cut(track.cues, cut)
    used_names = {product.info.file_name for product in sidecars.products}
    infix = _safe(track.language)
    for form in spec.formats or [FormatSpec.Subtitles.SRT]:
        extension = subtitles.EXTENSION[form]
        name = file_names.from_title(media.title, extension, infix=infix)
        if name in used_names:
            name = file_names.from_title(media.title, extension, infix=f"{infix}.auto")
        path = request.folder / f"subtitle{len(sidecars.products)}.{extension}"
        path.write_text(subtitles.render(cues, form), encoding="utf-8")
        sidecars.products.append(Product.from_file(path, ArtifactInfo.SUBTITLE, name, track.language))
    if spec.embed and cues:
        path = request.folder / f"embed{len(sidecars.embedded_subtitles)}.srt"
        path.write_text(subtitles.render(cues, FormatSpec.Subtitles.SRT), encoding="utf-8")
        sidecars.embedded_subtitles.append(SubtitleFile(path, _iso_639_2(track.language)))


def _fetch_cues(downloader: Downloader, source: SubtitleTrack, folder: Path) -> list[subtitles.Cue]:
    """Return the cues of a track; none if no format of it can be downloaded and read."""
    forms = [form for form in source.formats if form.get("ext") in _READABLE]
    for form in sorted(forms, key=lambda form: _READABLE.index(form["ext"])):
        try:
            cues = subtitles.parse(_fetch_text(downloader, form, folder), form["ext"])
        except _UNREADABLE:
            continue
        return cues if source.manual or form["ext"] == "json3" else subtitles.remove_rolling_lines(cues)
    return []


def _fetch_text(downloader: Downloader, form: Info, folder: Path) -> str:
    if form.get("data") is not None:
        return str(form["data"])[:_MAX_SUBTITLE_BYTES]
    if str(form.get("protocol") or "").startswith("m3u8"):
        return _fetch_segments(downloader, form, folder)
    request = Request(form["url"], headers=form.get("http_headers") or {})
    return read_body(downloader, request, _MAX_SUBTITLE_BYTES).decode("utf-8-sig", "replace")


def _fetch_segments(downloader: Downloader, form: Info, folder: Path) -> str:
    """Return a track of an HLS master playlist: yt-dlp's native downloader joins its WebVTT segments."""
    path = folder / "track.vtt"
    track = {**form, "protocol": "m3u8_native", "ext": "vtt", "id": "track", "title": "track"}
    try:
        downloader.dl(str(path), track, subtitle=True)
        with path.open("rb") as file:
            return file.read(_MAX_SUBTITLE_BYTES).decode("utf-8-sig", "replace")
    finally:
        path.unlink(missing_ok=True)


def _safe(code: str) -> str:
    return "".join(c for c in code if c.isalnum() or c in "-_")[:35]


def _iso_639_2(language: str) -> str:
    """Return the three-letter code of *language*, which containers use."""
    code = language.split("-")[0].lower()
    return code if len(code) == 3 else ISO639Utils.short2long(code) or "und"


def _nothing_to_translate(language: str) -> ReelhaulError:
    text = "there are no subtitles to translate"
    return ReelhaulError(ErrorReason.TRANSLATION_UNAVAILABLE, text, metadata={"language": language})


def _unavailable(missing: list[str]) -> ReelhaulError:
    languages = ",".join(missing)
    return ReelhaulError(
        ErrorReason.SUBTITLES_UNAVAILABLE, f"no subtitles in {languages}", metadata={"languages": languages}
    )
