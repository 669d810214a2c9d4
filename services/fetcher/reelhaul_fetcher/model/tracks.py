"""Which of a site's subtitle tracks answer what was asked, by yt-dlp's names for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.selection import same_language

Info = dict[str, Any]
_Forms = Mapping[str, list[Info]]

# Each is fetched and becomes up to four files.
_MAX_TRACKS = 60
_HEARD = "-orig"


@dataclass(frozen=True, slots=True)
class SubtitleTrack:
    """A track offered: yt-dlp's *key* of it, whether people wrote it, and the *forms* it comes in."""

    key: str
    manual: bool
    forms: list[Info]

    @property
    def language(self) -> str:
        """Its language as BCP-47."""
        return self.key.removesuffix(_HEARD)


def pick(info: Info, asked: FormatSpec.Subtitles) -> list[tuple[str, SubtitleTrack | None]]:
    """Each language asked, and the track to take for it; None where none is offered."""
    written = {} if asked.kinds == asked.AUTO else dict(info.get("subtitles") or {})
    written.pop("live_chat", None)
    heard = {} if asked.kinds == asked.MANUAL else _heard(info)
    spoken = str(info.get("language") or "")
    picked: dict[tuple[str, bool], tuple[str, SubtitleTrack | None]] = {}
    for language in asked.languages or ["original"]:
        if language == "all":
            found = [SubtitleTrack(key, True, forms) for key, forms in written.items()]
            found += [SubtitleTrack(key, False, forms) for key, forms in heard.items()]
        else:
            found = _matching(written, heard, language, spoken)
        for source in found[:_MAX_TRACKS]:
            picked.setdefault((source.key, source.manual), (source.language, source))
        if not found:
            picked.setdefault((language, False), (language, None))
    return list(picked.values())


def site_translation(info: Info, source: SubtitleTrack, language: str) -> SubtitleTrack | None:
    """The site's own translation of *source* into *language*; None where it has none."""
    offered: _Forms = info.get("automatic_captions") or {}
    for key, forms in offered.items():
        if key.endswith(_HEARD):
            continue
        # "de-en" is German, from the subtitles that people wrote in English.
        ending = f"-{source.key}" if source.manual else ""
        target = key.removesuffix(ending)
        if key.endswith(ending) and same_language(target, language):
            return SubtitleTrack(key, False, [_asking_for(target, key, form) for form in forms])
    return None


def _asking_for(target: str, key: str, form: Info) -> Info:
    """*form* with the language that YouTube knows in its URL, not yt-dlp's key of it."""
    return {**form, "url": str(form.get("url") or "").replace(f"tlang={key}", f"tlang={target}")}


def _heard(info: Info) -> dict[str, list[Info]]:
    """Tracks of speech recognition; without those that the site's machine translated."""
    tracks: _Forms = info.get("automatic_captions") or {}
    originals = {key: forms for key, forms in tracks.items() if key.endswith(_HEARD)}
    if originals:
        return originals
    spoken = str(info.get("language") or "")
    return {key: forms for key, forms in tracks.items() if not spoken or same_language(key, spoken)}


def _matching(written: _Forms, heard: _Forms, language: str, spoken: str) -> list[SubtitleTrack]:
    """The one track for *language*, what people wrote before what was heard; or none."""
    for tracks, manual in ((written, True), (heard, False)):
        if (key := _match(tracks, language, spoken)) is not None:
            return [SubtitleTrack(key, manual, tracks[key])]
    return []


def _match(tracks: _Forms, language: str, spoken: str) -> str | None:
    """The track for *language*; the exact one before a kind of it."""
    if language == "original":
        originals = [key for key in tracks if key.endswith(_HEARD)]
        if originals or (len(tracks) == 1 and not spoken):
            return (originals or list(tracks))[0]
        if not spoken:
            # Nothing tells which is spoken; sites put their own first.
            return next(iter(tracks), None)
        language = spoken
    exact = [key for key in (language, f"{language}{_HEARD}") if key in tracks]
    return next(iter(exact or [key for key in tracks if same_language(key, language)]), None)
