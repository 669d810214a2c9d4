"""Subtitles: downloaded, translated and written apart from the media, whose download they must not fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yt_dlp.utils import ISO639Utils

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model import cues
from reelhaul_fetcher.model.cues import Cue
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.selection import matches_language
from reelhaul_fetcher.model.subtitle_formats.text import SubtitlesUnreadable
from reelhaul_fetcher.model.subtitles import SubtitleTrack, find_site_translation, select_tracks
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info
from reelhaul_fetcher.ytdlp.subtitle_download import download_track
from reelhaul_runtime.errors import ReelhaulError

#: Translates texts from a language into another. Raises TRANSLATION_UNAVAILABLE.
Translate = Callable[[list[str], str, str], list[str]]


@dataclass(frozen=True, slots=True)
class CaptionTrack:
    """Subtitles in *language* (BCP-47), and how many of their cues had a wrong time."""

    language: str
    source: SubtitleTrack
    cues: list[Cue]
    wrong: int = 0

    @property
    def iso_639_2(self) -> str:
        """The three-letter code of the language, which containers use."""
        code = self.language.split("-")[0].lower()
        return code if len(code) == 3 else ISO639Utils.short2long(code) or "und"


@dataclass(slots=True)
class Sidecars:
    """Files beside the media, subtitles that are written once its length is known, and what is missing."""

    products: list[Product] = field(default_factory=list)
    tracks: list[CaptionTrack] = field(default_factory=list)
    #: A JPEG.
    thumbnail: Path | None = None
    warnings: list[MediaWarning] = field(default_factory=list)


def fetch_subtitles(
    downloader: Downloader, info: Info, request: FetchRequest, translate: Translate
) -> Sidecars:
    """Return the tracks that *request* asks for.

    Raises SUBTITLES_UNAVAILABLE or TRANSLATION_UNAVAILABLE if they are required.
    """
    spec = request.format.subtitles
    sidecars = Sidecars()
    missing: dict[str, str] = {}
    for label, source in select_tracks(info, spec):
        if source is None:
            missing[label] = "none are offered"
            continue
        try:
            track = download_track(downloader, source, request.folder)
            sidecars.tracks.append(CaptionTrack(source.language, source, track.cues, track.wrong))
        except SubtitlesUnreadable as error:
            missing[label] = str(error)
    subtitles_only = request.format.media_kind == FormatSpec.SUBTITLES_ONLY
    if missing and (spec.required or (subtitles_only and not sidecars.tracks)):
        raise _unavailable(missing)
    for label, problem in missing.items():
        text = f"no subtitles in {label}: {problem}"
        sidecars.warnings.append(
            MediaWarning(reason=MediaWarning.SUBTITLES_MISSING, message=text, language_code=label)
        )
    tracks = sidecars.tracks
    if spec.translate_to and (not tracks or not matches_language(tracks[0].language, spec.translate_to)):
        _add_translation(downloader, info, request, sidecars, translate)
    return sidecars


def _add_translation(
    downloader: Downloader, info: Info, request: FetchRequest, sidecars: Sidecars, translate: Translate
) -> None:
    """Add a translation of the first track: the site's own if there is one, else *translate*'s."""
    language = request.format.subtitles.translate_to
    try:
        if not sidecars.tracks:
            raise _nothing_to_translate(language)
        original = sidecars.tracks[0]
        translated = _download_translation(downloader, info, original, language, request.folder)
        if not translated:
            texts = translate([cue.text for cue in original.cues], original.language, language)
            translated = [
                Cue(cue.start, cue.end, text) for cue, text in zip(original.cues, texts, strict=True)
            ]
        sidecars.tracks.append(CaptionTrack(language, original.source, translated))
    except ReelhaulError as error:
        if request.format.subtitles.required or error.reason != ErrorReason.TRANSLATION_UNAVAILABLE:
            raise
        sidecars.warnings.append(
            MediaWarning(reason=MediaWarning.TRANSLATION_MISSING, message=error.text, language_code=language)
        )


def _download_translation(
    downloader: Downloader, info: Info, original: CaptionTrack, language: str, folder: Path
) -> list[Cue]:
    """Return the site's translation of *original*; empty if it has none that can be read."""
    source = find_site_translation(info, original.source, language)
    try:
        return download_track(downloader, source, folder).cues if source else []
    except SubtitlesUnreadable:
        return []


def write_subtitles(
    tracks: Sequence[CaptionTrack],
    media: MediaInfo,
    request: FetchRequest,
    cut: Cut,
    measured_seconds: float,
) -> tuple[list[Product], list[MediaWarning]]:
    """Write *tracks* with *cut* applied, within the length of the media; return the files.

    *measured_seconds* is the length of the file that is delivered with them; 0 if there is none.
    """
    spec = request.format.subtitles
    products: list[Product] = []
    warnings: list[MediaWarning] = []
    for track in tracks:
        shown, misfits = _fit(track, cut, measured_seconds, media)
        if misfits:
            text = (
                f"{misfits} cues of the subtitles in {track.language} had wrong times or were beyond the end"
                " of the media, and were corrected or left out"
            )
            warnings.append(
                MediaWarning(reason=MediaWarning.TIMES_CORRECTED, message=text, language_code=track.language)
            )
        used_names = {product.info.file_name for product in products}
        infix = _safe(track.language)
        for form in spec.formats or [FormatSpec.Subtitles.SRT]:
            extension = cues.EXTENSION[form]
            name = file_names.from_title(media.title, extension, infix=infix)
            if name in used_names:
                name = file_names.from_title(media.title, extension, infix=f"{infix}.auto")
            path = request.folder / f"subtitle{len(products)}.{extension}"
            path.write_text(cues.render(shown, form), encoding="utf-8")
            products.append(Product.from_file(path, ArtifactInfo.SUBTITLE, name, track.language))
    return products, warnings


def _fit(track: CaptionTrack, cut: Cut, measured_seconds: float, media: MediaInfo) -> tuple[list[Cue], int]:
    """Return the cues of *track* after *cut* within the media, and how many were corrected or left out."""
    site_seconds = media.duration.ToTimedelta().total_seconds()
    shown, misfits = track.cues, 0
    # A length that the site tells may be wrong, which would lose the text of a whole film.
    if not measured_seconds and site_seconds and cues.most_begin_before(shown, site_seconds):
        shown, misfits = cues.limit(shown, site_seconds)
    shown = cues.apply_cut(shown, cut)
    if measured_seconds:
        shown, misfits = cues.limit(shown, measured_seconds)
    return shown, misfits + track.wrong


def _safe(code: str) -> str:
    return "".join(c for c in code if c.isalnum() or c in "-_")[:35]


def _nothing_to_translate(language: str) -> ReelhaulError:
    text = "there are no subtitles to translate"
    return ReelhaulError(ErrorReason.TRANSLATION_UNAVAILABLE, text, metadata={"language": language})


def _unavailable(problems: Mapping[str, str]) -> ReelhaulError:
    """Return SUBTITLES_UNAVAILABLE for the *problems* by language."""
    text = "; ".join(f"no subtitles in {language}: {problem}" for language, problem in problems.items())
    metadata = {"languages": ",".join(problems)}
    return ReelhaulError(ErrorReason.SUBTITLES_UNAVAILABLE, text, metadata=metadata)
