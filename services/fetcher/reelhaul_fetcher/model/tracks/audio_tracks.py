"""Audio tracks of one file: chooses one by the language, role and codec of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reelhaul.type.v1.media_pb2 import Format, FormatSpec, TrackRole
from reelhaul_fetcher.model.tracks import audio_selection, languages, track_roles

#: Tracks of a file beyond these are not considered.
MAX_TRACKS = 32

_ROLES = {
    "visual_impaired": TrackRole.TRACK_ROLE_DESCRIPTION,
    "descriptions": TrackRole.TRACK_ROLE_DESCRIPTION,
    "comment": TrackRole.TRACK_ROLE_COMMENTARY,
    "hearing_impaired": TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    "clean_effects": TrackRole.TRACK_ROLE_OTHER,
    "karaoke": TrackRole.TRACK_ROLE_OTHER,
}


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """One audio stream of a file, as libav reports it."""

    codec: str = ""
    channels: int = 0
    #: Language as written in the file.
    language: str = ""
    title: str = ""
    #: ffmpeg's names of its dispositions, comma separated.
    dispositions: str = ""


def choose(tracks: Sequence[AudioTrack], stream: Format, spec: FormatSpec) -> tuple[int, Format]:
    """Return the index of the track to use for *spec*, and *stream* with the properties of that track.

    If the file has one track, the language and role that the site states for *stream* take precedence.
    """
    if not tracks:
        return 0, stream
    formats = [_describe(track, stream, is_only=len(tracks) == 1) for track in tracks]
    container = spec.container or FormatSpec.MP4
    best = audio_selection.choose_best(formats[::-1], spec, container)
    return next(number for number, each in enumerate(formats) if each is best), best


def played_by_default(tracks: Sequence[AudioTrack]) -> int:
    """Return the index of the track that players choose."""
    defaults = (number for number, track in enumerate(tracks) if "default" in track.dispositions.split(","))
    return next(defaults, 0)


def _describe(track: AudioTrack, stream: Format, *, is_only: bool) -> Format:
    result = Format()
    result.CopyFrom(stream)
    dispositions = track.dispositions.split(",")
    language = languages.to_tag(track.language)
    role = track_roles.from_audio_texts(track.language, track.title)
    role = next((_ROLES[name] for name in dispositions if name in _ROLES), role)
    if not is_only or not result.language_code:
        result.language_code = "" if language == languages.UNDETERMINED else language
    result.role = (result.role or role) if is_only else role
    if is_only:
        return result
    result.audio_codec = track.codec
    result.default_audio = "default" in dispositions
    if "original" in dispositions or "dub" in dispositions:
        result.original_audio = "original" in dispositions
    return result
