"""Subtitles: download, translation and output. Errors are warnings unless subtitles are required."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from reelhaul import file_names
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, FormatSpec, MediaInfo
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model import site_limits
from reelhaul_fetcher.model.engine_requests import FetchRequest, Product
from reelhaul_fetcher.model.subtitle_formats import Track
from reelhaul_fetcher.model.subtitle_formats.text import SubtitlesUnreadable
from reelhaul_fetcher.model.timing import clocks, cues
from reelhaul_fetcher.model.timing.cues import Cue
from reelhaul_fetcher.model.timing.cuts import Cut
from reelhaul_fetcher.model.tracks import languages, track_roles
from reelhaul_fetcher.model.tracks.subtitle_tracks import (
    Selection,
    SubtitleTrack,
    describe,
    find_site_translation,
    select_tracks,
)
from reelhaul_fetcher.ytdlp.downloader import Downloader, Info
from reelhaul_fetcher.ytdlp.extras.sidecar_timer import SidecarTimer
from reelhaul_fetcher.ytdlp.extras.subtitle_download import download_track
from reelhaul_runtime.errors import ReelhaulError

#: Translates texts from a language into another. Raises TRANSLATION_UNAVAILABLE.
Translate = Callable[[list[str], str, str], list[str]]
# Returns the cues of a track. Raises SubtitlesUnreadable.
_Download = Callable[[SubtitleTrack], Track]

# Shorter shifts, in seconds, are not applied.
_MIN_SHIFT = 0.05


@dataclass(frozen=True, slots=True)
class CaptionTrack:
    """Subtitles in *language* (BCP-47), and the number of cues with a wrong time."""

    language: str
    source: SubtitleTrack
    cues: list[Cue]
    wrong: int = 0
    #: Time of the media's clock at time 0 of the cues, in seconds; None if unknown.
    clock: float | None = None

    def on_clock(self, media_start: float, duration: float) -> CaptionTrack:
        """Return this track shifted to media whose first timestamp is *media_start* seconds."""
        shift = clocks.wrap(self.clock - media_start) if self.clock is not None else 0.0
        moved = cues.move(self.cues, shift)
        # A wrong clock of the site must not remove most of the cues.
        is_plausible = len(moved) * 2 > len(self.cues) and cues.most_begin_before(moved, duration)
        return replace(self, cues=moved) if abs(shift) >= _MIN_SHIFT and is_plausible else self

    @property
    def iso_639_2(self) -> str:
        """The three-letter code of the language, which containers use."""
        return languages.to_iso_639_2(self.language)

    @property
    def title(self) -> str:
        """The site's name of the track, printable characters only; empty for a translation."""
        name = self.source.name[: site_limits.MAX_NAME] if self.language == self.source.language else ""
        return "".join(letter for letter in name if letter.isprintable())

    def repeats(self, other: CaptionTrack) -> bool:
        """Return whether *other* has the same cues in the same language: some sites list a track twice."""
        kind, other_kind = (
            (track.language, track.source.role, track.source.manual) for track in (self, other)
        )
        return kind == other_kind and self.cues == other.cues


@dataclass(slots=True)
class Sidecars:
    """Files beside the media, subtitles that are written once its length is known, and what is missing."""

    products: list[Product] = field(default_factory=list)
    tracks: list[CaptionTrack] = field(default_factory=list)
    #: A JPEG.
    thumbnail: Path | None = None
    warnings: list[MediaWarning] = field(default_factory=list)


def fetch_subtitles(
    downloader: Downloader, info: Info, request: FetchRequest, translate: Translate, timer: SidecarTimer
) -> Sidecars:
    """Return the tracks that *request* selects, as far as *timer* allows.

    Raises SUBTITLES_UNAVAILABLE or TRANSLATION_UNAVAILABLE if they are required.
    """
    spec = request.format.subtitles
    sidecars = Sidecars()
    missing: dict[str, str] = {}
    download = functools.partial(download_track, downloader, folder=request.folder, timer=timer)
    for selection in select_tracks(info, spec):
        try:
            track = _download_best(selection, sidecars.tracks, download)
        except SubtitlesUnreadable as error:
            missing[selection.language] = str(error)
            continue
        if not any(other.repeats(track) for other in sidecars.tracks):
            sidecars.tracks.append(track)
        if not selection.is_listed:
            sidecars.warnings += _track_warnings(track.source, selection.language)
    subtitles_only = request.format.media_kind == FormatSpec.SUBTITLES_ONLY
    if missing and (spec.required or (subtitles_only and not sidecars.tracks)):
        raise _unavailable(missing)
    sidecars.warnings += [_missing(label, problem) for label, problem in missing.items()]
    tracks = sidecars.tracks
    if spec.translate_to and not (tracks and languages.matches(spec.translate_to, tracks[0].language)):
        _add_translation(info, request, sidecars, download, translate)
    return sidecars


def _download_best(
    selection: Selection, downloaded: Sequence[CaptionTrack], download: _Download
) -> CaptionTrack:
    """Return the best track of *selection* that can be read. Raises SubtitlesUnreadable if there is none."""
    problems: list[str] = []
    for source in selection.candidates:
        for known in downloaded:
            if known.source == source:
                return known
        try:
            track = download(source)
        except SubtitlesUnreadable as error:
            problems.append(str(error))
        else:
            return CaptionTrack(source.language, source, track.cues, track.wrong, track.clock)
    raise SubtitlesUnreadable(problems[0] if problems else "none are offered")


def _track_warnings(track: SubtitleTrack, requested: str) -> list[MediaWarning]:
    """Return a warning if *track* differs from *requested*: another region, or not the full track."""
    language, role = track_roles.split_request(requested)
    if languages.differs_in_region(language, track.language):
        return [_missing(requested, f"{describe(track)} is delivered instead")]
    if not role and not track_roles.is_complete(track.role):
        text = f"the only subtitles in {requested} are of the kind {track_roles.TEXT[track.role]}"
        return [MediaWarning(reason=MediaWarning.TRACK_ROLE_DIFFERS, message=text, language_code=requested)]
    return []


def _add_translation(
    info: Info, request: FetchRequest, sidecars: Sidecars, download: _Download, translate: Translate
) -> None:
    """Add a translation of the first track: the site's own if there is one, else *translate*'s."""
    language = request.format.subtitles.translate_to
    try:
        if not sidecars.tracks:
            raise _nothing_to_translate(language)
        original = sidecars.tracks[0]
        translated = _download_translation(info, original, language, download)
        if not translated:
            texts = translate([cue.text for cue in original.cues], original.language, language)
            translated = [
                Cue(cue.start, cue.end, text) for cue, text in zip(original.cues, texts, strict=True)
            ]
        sidecars.tracks.append(CaptionTrack(language, original.source, translated, 0, original.clock))
    except ReelhaulError as error:
        if request.format.subtitles.required or error.reason != ErrorReason.TRANSLATION_UNAVAILABLE:
            raise
        sidecars.warnings.append(
            MediaWarning(reason=MediaWarning.TRANSLATION_MISSING, message=error.text, language_code=language)
        )


def _download_translation(
    info: Info, original: CaptionTrack, language: str, download: _Download
) -> list[Cue]:
    """Return the site's translation of *original*; empty if it has none that can be read."""
    source = find_site_translation(info, original.source, language)
    try:
        return download(source).cues if source else []
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

    *measured_seconds* is the length of the media file delivered; 0 if there is none.
    """
    spec = request.format.subtitles
    products: list[Product] = []
    warnings: list[MediaWarning] = []
    for track in tracks:
        shown, misfits = _fit(track, cut, measured_seconds, media)
        if misfits:
            text = (
                f"cues of the subtitles in {track.language} with wrong times, or beyond the end of the"
                f" media, were corrected or left out: {misfits}"
            )
            warnings.append(
                MediaWarning(reason=MediaWarning.TIMES_CORRECTED, message=text, language_code=track.language)
            )
        used_names = {product.info.file_name for product in products}
        for form in spec.formats or [FormatSpec.Subtitles.SRT]:
            extension = cues.EXTENSION[form]
            names = (file_names.from_title(media.title, extension, infix=infix) for infix in _infixes(track))
            name = next(name for name in names if name not in used_names)
            path = request.folder / f"subtitle{len(products)}.{extension}"
            path.write_text(cues.render(shown, form), encoding="utf-8")
            products.append(Product.from_file(path, ArtifactInfo.SUBTITLE, name, track.language))
    return products, warnings


def _fit(track: CaptionTrack, cut: Cut, measured_seconds: float, media: MediaInfo) -> tuple[list[Cue], int]:
    """Return the cues of *track* after *cut* within the media, and how many were corrected or left out."""
    site_seconds = media.duration.ToTimedelta().total_seconds()
    shown, misfits = track.cues, 0
    # The length stated by the site may be wrong: it is not used if it would remove most of the cues.
    if not measured_seconds and site_seconds and cues.most_begin_before(shown, site_seconds):
        shown, misfits = cues.limit(shown, site_seconds)
    shown = cues.apply_cut(shown, cut)
    if measured_seconds:
        shown, misfits = cues.limit(shown, measured_seconds)
    return shown, misfits + track.wrong


def _infixes(track: CaptionTrack) -> Iterator[str]:
    """Yield candidate name parts for the files of *track*: its language and role, then with a number."""
    suffix = track_roles.SUFFIX.get(track.source.role)
    infix = f"{track.language}.{suffix}" if suffix else track.language
    yield infix
    if not track.source.manual:
        infix = f"{infix}.auto"
        yield infix
    yield from (f"{infix}.{number}" for number in count(2))


def _missing(language: str, problem: str) -> MediaWarning:
    text = f"no subtitles in {language}: {problem}"
    return MediaWarning(reason=MediaWarning.SUBTITLES_MISSING, message=text, language_code=language)


def _nothing_to_translate(language: str) -> ReelhaulError:
    text = "there are no subtitles to translate"
    return ReelhaulError(ErrorReason.TRANSLATION_UNAVAILABLE, text, metadata={"language": language})


def _unavailable(problems: Mapping[str, str]) -> ReelhaulError:
    """Return SUBTITLES_UNAVAILABLE for the *problems* by language."""
    text = "; ".join(f"no subtitles in {language}: {problem}" for language, problem in problems.items())
    metadata = {"languages": ",".join(problems)}
    return ReelhaulError(ErrorReason.SUBTITLES_UNAVAILABLE, text, metadata=metadata)
