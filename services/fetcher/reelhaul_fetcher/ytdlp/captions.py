"""Subtitles in their own pass: found, fetched, translated, written. Their lack is a warning, not an end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yt_dlp.networking import Request
from yt_dlp.utils import ISO639Utils, YoutubeDLError

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.media.muxer import SubtitleFile
from reelhaul_fetcher.model import subtitles
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product, product
from reelhaul_fetcher.model.selection import matches_language
from reelhaul_fetcher.model.subtitles import SubtitleTrack, find_site_translation, select_tracks
from reelhaul_fetcher.ytdlp.downloader import Downloader, body, supported
from reelhaul_runtime.errors import ReelhaulError

Info = dict[str, Any]
#: Texts, their language and the one wanted -> texts. Raises TRANSLATION_UNAVAILABLE.
Translate = Callable[[list[str], str, str], list[str]]

_MAX_SUBTITLE = 16 * 1024 * 1024
# Without rolling lines first, then by how well they are read.
_READABLE = ("json3", "vtt", "srt")


@dataclass(slots=True)
class Captions:
    """Files of subtitles, those to be written into the video, and what is missing."""

    products: list[Product] = field(default_factory=list)
    words: list[SubtitleFile] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Track:
    language: str
    source: SubtitleTrack
    cues: list[subtitles.Cue]


def captions(
    downloader: Downloader, info: Info, media: MediaInfo, order: FetchRequest, cut: Cut, translate: Translate
) -> Captions:
    """What *order* asks for, as it is after *cut*.

    Raises SUBTITLES_UNAVAILABLE, TRANSLATION_UNAVAILABLE where they were required.
    """
    asked = order.format.subtitles
    tracks: list[_Track] = []
    missing: list[str] = []
    for label, source in select_tracks(info, asked):
        cues = _cues(downloader, source, order.folder) if source else []
        if source and cues:
            tracks.append(_Track(source.language, source, cues))
        else:
            missing.append(label)
    if missing and (asked.required or (order.format.media_kind == FormatSpec.SUBTITLES_ONLY and not tracks)):
        raise _unavailable(missing)
    told = Captions(warnings=[_warning(Warned.SUBTITLES_MISSING, "subtitles", label) for label in missing])
    if asked.translate_to and (not tracks or not matches_language(tracks[0].language, asked.translate_to)):
        _add_translation(downloader, info, tracks, order, told, translate)
    for track in tracks:
        _write(track, media, order, cut, told)
    return told


def _add_translation(
    downloader: Downloader,
    info: Info,
    tracks: list[_Track],
    order: FetchRequest,
    told: Captions,
    translate: Translate,
) -> None:
    """The first of *tracks* in the language asked: the site's own translation, else the provider's."""
    language = order.format.subtitles.translate_to
    try:
        if not tracks:
            raise _untranslated(language, "there are no subtitles to translate")
        source = find_site_translation(info, tracks[0].source, language)
        cues = _cues(downloader, source, order.folder) if source else []
        if not cues:
            before = tracks[0].cues
            texts = translate([cue.text for cue in before], tracks[0].language, language)
            cues = [subtitles.Cue(c.start, c.end, text) for c, text in zip(before, texts, strict=True)]
        tracks.append(_Track(language, tracks[0].source, cues))
    except ReelhaulError as error:
        if order.format.subtitles.required or error.reason != ErrorReason.TRANSLATION_UNAVAILABLE:
            raise
        told.warnings.append(
            Warned(reason=Warned.TRANSLATION_MISSING, message=error.text, language_code=language)
        )


def _write(track: _Track, media: MediaInfo, order: FetchRequest, cut: Cut, told: Captions) -> None:
    asked = order.format.subtitles
    cues = subtitles.apply_cut(track.cues, cut)
    taken = {made.info.file_name for made in told.products}
    for form in asked.formats or [FormatSpec.Subtitles.SRT]:
        extension = subtitles.EXTENSION[form]
        name = file_names.from_title(media.title, extension, infix=_safe(track.language))
        if name in taken:
            name = file_names.from_title(media.title, extension, infix=f"{_safe(track.language)}.auto")
        path = order.folder / f"subtitle{len(told.products)}.{extension}"
        path.write_text(subtitles.render(cues, form), encoding="utf-8")
        told.products.append(product(path, ArtifactInfo.SUBTITLE, name, track.language))
    if asked.embed and cues:
        path = order.folder / f"embed{len(told.words)}.srt"
        path.write_text(subtitles.render(cues, FormatSpec.Subtitles.SRT), encoding="utf-8")
        told.words.append(SubtitleFile(path, _three_letters(track.language)))


def _cues(downloader: Downloader, source: SubtitleTrack, folder: Path) -> list[subtitles.Cue]:
    """The track's cues; none where no form of it can be fetched or read."""
    forms = [form for form in source.formats if form.get("ext") in _READABLE]
    for form in sorted(forms, key=lambda form: _READABLE.index(form["ext"])):
        try:
            cues = subtitles.parse(_text_of(downloader, form, folder), form["ext"])
        except (YoutubeDLError, OSError, ValueError):
            continue
        return cues if source.manual or form["ext"] == "json3" else subtitles.remove_rolling_lines(cues)
    return []


def _text_of(downloader: Downloader, form: Info, folder: Path) -> str:
    if form.get("data") is not None:
        return str(form["data"])[:_MAX_SUBTITLE]
    if str(form.get("protocol") or "").startswith("m3u8"):
        return _segmented(downloader, form, folder)
    request = Request(form["url"], headers=form.get("http_headers") or {})
    return body(downloader, request, _MAX_SUBTITLE).decode("utf-8-sig", "replace")


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


def _safe(code: str) -> str:
    return "".join(c for c in code if c.isalnum() or c in "-_")[:35]


def _three_letters(language: str) -> str:
    """ISO 639-2, as containers want it."""
    code = language.split("-")[0].lower()
    return code if len(code) == 3 else ISO639Utils.short2long(code) or "und"


def _warning(reason: Warned.Reason.ValueType, what: str, language: str) -> Warned:
    return Warned(reason=reason, message=f"no {what} in {language}", language_code=language)


def _unavailable(missing: list[str]) -> ReelhaulError:
    languages = ",".join(missing)
    return ReelhaulError(
        ErrorReason.SUBTITLES_UNAVAILABLE, f"no subtitles in {languages}", metadata={"languages": languages}
    )


def _untranslated(language: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.TRANSLATION_UNAVAILABLE, text, metadata={"language": language})
