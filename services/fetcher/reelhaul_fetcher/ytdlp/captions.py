"""Subtitles: downloaded, translated and written apart from the media, whose download they must not fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from yt_dlp.networking import Request
from yt_dlp.utils import YoutubeDLError

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.media.muxer import SubtitleFile
from reelhaul_fetcher.model import languages, site_limits, subtitles, track_roles
from reelhaul_fetcher.model.cuts import Cut
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.subtitle_tracks import (
    Selection,
    SubtitleTrack,
    describe,
    find_site_translation,
    select_tracks,
)
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

    def repeats(self, other: _Track) -> bool:
        """Return whether *other* has the same words in the same language: some sites list a track twice."""
        kind, other_kind = (
            (track.language, track.source.role, track.source.manual) for track in (self, other)
        )
        return kind == other_kind and self.cues == other.cues


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
    spec, sidecars = request.format.subtitles, Sidecars()
    tracks: list[_Track] = []
    missing: list[str] = []
    for selection in select_tracks(info, spec):
        track = _fetch_track(downloader, selection, request.folder, tracks)
        if track is None:
            missing.append(selection.language)
            continue
        if all(other is not track and not other.repeats(track) for other in tracks):
            tracks.append(track)
        if not selection.is_listed:
            sidecars.warnings += _track_warnings(track.source, selection.language)
    subtitles_only = request.format.media_kind == FormatSpec.SUBTITLES_ONLY
    if missing and (spec.required or (subtitles_only and not tracks)):
        raise _unavailable(missing)
    sidecars.warnings += [_missing(label, f"no subtitles in {label}") for label in missing]
    if spec.translate_to and not (tracks and languages.matches(spec.translate_to, tracks[0].language)):
        _add_translation(downloader, info, tracks, request, sidecars, translate)
    for track in tracks:
        _write(track, media, request, cut, sidecars)
    return sidecars


def _fetch_track(
    downloader: Downloader, selection: Selection, folder: Path, fetched: list[_Track]
) -> _Track | None:
    """Return the best track of *selection* that can be read; None if there is none."""
    for source in selection.candidates:
        for track in fetched:
            if track.source == source:
                return track
        if cues := _fetch_cues(downloader, source, folder):
            return _Track(source.language, source, cues)
    return None


def _track_warnings(track: SubtitleTrack, requested: str) -> list[MediaWarning]:
    """Return a warning if *track* is not quite what was *requested*: of another region, or a part only."""
    language, role = track_roles.split_request(requested)
    if languages.differs_in_region(language, track.language):
        return [_missing(requested, f"no subtitles in {requested}: {describe(track)} is offered")]
    if not role and not track_roles.is_complete(track.role):
        text = f"the only subtitles in {requested} are of the kind {track_roles.TEXT[track.role]}"
        return [MediaWarning(reason=MediaWarning.TRACK_ROLE_DIFFERS, message=text, language_code=requested)]
    return []


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
    for form in spec.formats or [FormatSpec.Subtitles.SRT]:
        extension = subtitles.EXTENSION[form]
        names = (file_names.from_title(media.title, extension, infix=infix) for infix in _infixes(track))
        name = next(name for name in names if name not in used_names)
        path = request.folder / f"subtitle{len(sidecars.products)}.{extension}"
        path.write_text(subtitles.render(cues, form), encoding="utf-8")
        sidecars.products.append(Product.from_file(path, ArtifactInfo.SUBTITLE, name, track.language))
    if spec.embed and cues:
        path = request.folder / f"embed{len(sidecars.embedded_subtitles)}.srt"
        path.write_text(subtitles.render(cues, FormatSpec.Subtitles.SRT), encoding="utf-8")
        source = track.source
        # A translation has no name.
        name = source.name[: site_limits.MAX_NAME] if track.language == source.language else ""
        title = "".join(letter for letter in name if letter.isprintable())
        language = languages.to_iso_639_2(track.language)
        sidecars.embedded_subtitles.append(SubtitleFile(path, language, title, source.role))


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


def _infixes(track: _Track) -> Iterator[str]:
    """Yield what tells the files of *track* from those of others: its language, its role, and a number."""
    suffix = track_roles.SUFFIX.get(track.source.role)
    infix = f"{track.language}.{suffix}" if suffix else track.language
    yield infix
    if not track.source.manual:
        infix = f"{infix}.auto"
        yield infix
    yield from (f"{infix}.{number}" for number in count(2))


def _missing(language: str, text: str) -> MediaWarning:
    return MediaWarning(reason=MediaWarning.SUBTITLES_MISSING, message=text, language_code=language)


def _nothing_to_translate(language: str) -> ReelhaulError:
    text = "there are no subtitles to translate"
    return ReelhaulError(ErrorReason.TRANSLATION_UNAVAILABLE, text, metadata={"language": language})


def _unavailable(missing: list[str]) -> ReelhaulError:
    languages = ",".join(missing)
    return ReelhaulError(
        ErrorReason.SUBTITLES_UNAVAILABLE, f"no subtitles in {languages}", metadata={"languages": languages}
    )
