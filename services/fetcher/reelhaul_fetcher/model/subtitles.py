"""Subtitles: selects the tracks of a site that match a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.selection import matches_language
from reelhaul_fetcher.model.site_limits import MAX_CODE, MAX_SUBTITLE_TRACKS, SiteValues, clean

#: yt-dlp's info dictionary.
Info = dict[str, Any]
# Tracks by yt-dlp's key, each as the list of formats that it is offered in.
_Tracks = Mapping[str, list[Info]]

# Each track is downloaded and becomes up to four files.
_MAX_TRACKS = 60
# yt-dlp's suffix of a track of speech recognition in the spoken language.
_ORIGINAL_SUFFIX = "-orig"


@dataclass(frozen=True, slots=True)
class SubtitleTrack:
    """A track of a site: yt-dlp's *key*, whether people wrote it, and the *formats* it is offered in."""

    key: str
    manual: bool
    formats: list[Info]

    @property
    def language(self) -> str:
        """Its language as BCP-47."""
        return self.key.removesuffix(_ORIGINAL_SUFFIX)


def offered_tracks(info: Info, name: str, values: SiteValues | None = None) -> dict[str, list[Info]]:
    """Return the tracks in the field *name* of *info*, without those whose key is too long for a language."""
    offered = info.get(name) or {}
    tracks = {
        clean(key): formats
        for key, formats in islice(offered.items(), MAX_SUBTITLE_TRACKS)
        if len(str(key)) <= MAX_CODE
    }
    if values is not None and len(tracks) < len(offered):
        values.add_cut("subtitle tracks")
    return tracks


def select_tracks(info: Info, request: FormatSpec.Subtitles) -> list[tuple[str, SubtitleTrack | None]]:
    """Return each requested language with the track to take for it; None if none is offered."""
    manual = {} if request.kinds == request.AUTO else offered_tracks(info, "subtitles")
    manual.pop("live_chat", None)
    automatic = {} if request.kinds == request.MANUAL else _automatic_tracks(info)
    spoken = str(info.get("language") or "")
    selected: dict[tuple[str, bool], tuple[str, SubtitleTrack | None]] = {}
    for language in request.languages or ["original"]:
        if language == "all":
            tracks = [SubtitleTrack(key, True, formats) for key, formats in manual.items()]
            tracks += [SubtitleTrack(key, False, formats) for key, formats in automatic.items()]
        else:
            tracks = _find_track(manual, automatic, language, spoken)
        for track in tracks[:_MAX_TRACKS]:
            selected.setdefault((track.key, track.manual), (track.language, track))
        if not tracks:
            selected.setdefault((language, False), (language, None))
    return list(selected.values())


def find_site_translation(info: Info, source: SubtitleTrack, language: str) -> SubtitleTrack | None:
    """Return the site's own translation of *source* into *language*; None if it has none."""
    for key, formats in offered_tracks(info, "automatic_captions").items():
        if key.endswith(_ORIGINAL_SUFFIX):
            continue
        # "de-en" is German, translated from manual English subtitles.
        suffix = f"-{source.key}" if source.manual else ""
        target = key.removesuffix(suffix)
        if key.endswith(suffix) and matches_language(target, language):
            return SubtitleTrack(key, False, [_with_target(form, key, target) for form in formats])
    return None


def _with_target(form: Info, key: str, target: str) -> Info:
    """Return *form* with YouTube's language code in its URL in place of yt-dlp's key."""
    return {**form, "url": str(form.get("url") or "").replace(f"tlang={key}", f"tlang={target}")}


def _automatic_tracks(info: Info) -> dict[str, list[Info]]:
    """Return the tracks of speech recognition without machine translations."""
    tracks = offered_tracks(info, "automatic_captions")
    originals = {key: formats for key, formats in tracks.items() if key.endswith(_ORIGINAL_SUFFIX)}
    if originals:
        return originals
    spoken = str(info.get("language") or "")
    return {key: formats for key, formats in tracks.items() if not spoken or matches_language(key, spoken)}


def _find_track(manual: _Tracks, automatic: _Tracks, language: str, spoken: str) -> list[SubtitleTrack]:
    """Return the track for *language*, manual before automatic; empty if there is none."""
    for tracks, is_manual in ((manual, True), (automatic, False)):
        if (key := _find_key(tracks, language, spoken)) is not None:
            return [SubtitleTrack(key, is_manual, tracks[key])]
    return []


def _find_key(tracks: _Tracks, language: str, spoken: str) -> str | None:
    """Return the key of the track for *language*: an exact match before a variant ("en-GB" for "en")."""
    if language == "original":
        originals = [key for key in tracks if key.endswith(_ORIGINAL_SUFFIX)]
        if originals or (len(tracks) == 1 and not spoken):
            return (originals or list(tracks))[0]
        if not spoken:
            # The spoken language is unknown; sites list it first.
            return next(iter(tracks), None)
        language = spoken
    exact = [key for key in (language, f"{language}{_ORIGINAL_SUFFIX}") if key in tracks]
    return next(iter(exact or [key for key in tracks if matches_language(key, language)]), None)
