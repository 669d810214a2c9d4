"""Subtitle tracks: lists those that a site offers, and selects those that a request names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from reelhaul.type.v1.media_pb2 import FormatSpec, TrackRole
from reelhaul_fetcher.model.site_limits import MAX_CODE, MAX_NAME, MAX_SUBTITLE_TRACKS, SiteValues, clean
from reelhaul_fetcher.model.tracks import languages, track_roles

#: yt-dlp's info dictionary.
Info = dict[str, Any]

# Keys that ``ytdlp.extract.manifest_tracks`` adds to yt-dlp's dictionaries of subtitles and streams.
#: The TrackRole of the track.
ROLE = "track_role"
#: Whether the site plays the track unless another one is chosen.
IS_DEFAULT = "track_default"
#: Which of several tracks of one name, language and role it is.
NUMBER = "track_number"
#: Start and length in seconds of the period of a DASH manifest that it belongs to, if there are several.
PERIOD = "track_period"

#: Of a stream: the subtitles of its manifest, which the extractor does not list.
MANIFEST_SUBTITLES = "manifest_subtitles"

# Each track is downloaded and becomes up to four files.
_MAX_TRACKS = 60
# Forms of the tracks of one language: YouTube has six of each.
_MAX_FORMS = 200
# Tracks that are tried for one language before it counts as missing.
_MAX_CANDIDATES = 4
# Distance of a track of unknown language from the spoken language.
_UNKNOWN_DISTANCE = 1000
# yt-dlp's suffix of a track of speech recognition in the spoken language.
_ORIGINAL_SUFFIX = "-orig"
# YouTube's chat, which yt-dlp lists as subtitles.
_LIVE_CHAT = "live_chat"


@dataclass(frozen=True, slots=True)
class SubtitleTrack:
    """A track of a site: yt-dlp's *key*, whether people wrote it, and the *formats* that are offered."""

    key: str
    manual: bool
    formats: list[Info]
    #: BCP-47; "und" if the key names no language.
    language: str
    role: TrackRole.ValueType = TrackRole.TRACK_ROLE_UNSPECIFIED
    #: The site's name.
    name: str = ""
    is_default: bool = False

    @property
    def is_original(self) -> bool:
        """Whether yt-dlp marks it as that of the spoken language."""
        return self.key.endswith(_ORIGINAL_SUFFIX)


# Returns the distance of a track from a language; None if it is in another one.
_DistanceOf = Callable[[SubtitleTrack], int | None]


@dataclass(frozen=True, slots=True)
class Selection:
    """The candidate tracks for a requested *language*, best first; none if none is offered."""

    language: str
    candidates: list[SubtitleTrack] = field(default_factory=list)
    #: Whether it was requested by "all", not by its language.
    is_listed: bool = False


def offered_tracks(info: Info, name: str, values: SiteValues | None = None) -> list[SubtitleTrack]:
    """Return the tracks in the field *name* of *info*: "subtitles" or "automatic_captions".

    Several tracks of one language differ in role, name or number.
    """
    offered = info.get(name) or {}
    tracks: list[SubtitleTrack] = []
    for key, forms in islice(offered.items(), MAX_SUBTITLE_TRACKS):
        if key != _LIVE_CHAT and isinstance(forms, list):
            tracks += _split(clean(key), forms[:_MAX_FORMS], manual=name == "subtitles")
    if values is not None and len(offered) > MAX_SUBTITLE_TRACKS:
        values.add_cut("subtitle tracks")
    return tracks[:MAX_SUBTITLE_TRACKS]


def add_manifest_subtitles(info: Info) -> None:
    """Move the subtitles of manifests from the streams of *info* to its subtitles, if it lists none."""
    found: dict[Any, list[Info]] = {}
    formats = info.get("formats")
    for stream in formats if isinstance(formats, list) else ():
        subtitles = stream.pop(MANIFEST_SUBTITLES, None) if isinstance(stream, dict) else None
        found = found or subtitles or {}
    if found and not info.get("subtitles"):
        info["subtitles"] = found


def without_broken_forms(offered: Any) -> dict[Any, list[Info]]:
    """Return yt-dlp's subtitles by key without forms that have neither an address nor text."""
    tracks = offered if isinstance(offered, dict) else {}
    return {
        key: [form for form in forms if isinstance(form, dict) and _is_complete(form)]
        for key, forms in tracks.items()
        if isinstance(forms, list)
    }


def select_tracks(info: Info, request: FormatSpec.Subtitles) -> list[Selection]:
    """Return a selection for each language of *request*."""
    manual = [] if request.kinds == request.AUTO else offered_tracks(info, "subtitles")
    automatic = [] if request.kinds == request.MANUAL else _automatic_tracks(info)
    selections = []
    for requested in request.languages or ["original"]:
        if requested == "all":
            listed = (manual + automatic)[:_MAX_TRACKS]
            selections += [Selection(track.language, [track], is_listed=True) for track in listed]
        else:
            candidates = _find_candidates(manual, automatic, requested, info)
            selections.append(Selection(requested, candidates[:_MAX_CANDIDATES]))
    return selections


def find_site_translation(info: Info, source: SubtitleTrack, language: str) -> SubtitleTrack | None:
    """Return the site's own translation of *source* into *language*; None if it has none."""
    # "de-en" is German, translated from manual English subtitles.
    suffix = f"-{source.key}" if source.manual else ""
    for track in offered_tracks(info, "automatic_captions"):
        target = track.key.removesuffix(suffix)
        is_translation = track.key.endswith(suffix) and not track.is_original
        if is_translation and languages.matches(language, languages.to_tag(target)):
            return replace(track, formats=[_with_target(form, track.key, target) for form in track.formats])
    return None


def describe(track: SubtitleTrack) -> str:
    """Return what *track* is, for messages."""
    role = track_roles.TEXT.get(track.role)
    return f"{track.language} ({role})" if role else track.language


def _is_complete(form: Info) -> bool:
    return isinstance(form.get("url"), str) or (form.get("data") is not None and bool(form.get("ext")))


def _split(key: str, forms: Iterable[Any], *, manual: bool) -> Iterable[SubtitleTrack]:
    """Yield the tracks among the *forms* that yt-dlp lists under one *key*."""
    # A longer key is no language, but may be the name of one.
    label = key.removesuffix(_ORIGINAL_SUFFIX) if len(key) <= MAX_CODE else ""
    label_language = languages.to_tag(label)
    groups: dict[tuple[TrackRole.ValueType, str, int], list[Info]] = {}
    for form in forms:
        if not isinstance(form, dict):
            continue
        name = clean(form.get("name"))
        role = form.get(ROLE) or track_roles.from_texts(label, name)
        number = form.get(NUMBER)
        if number is None:
            # One track in several formats has a name or each format once.
            same = [other for other in groups if other[:2] == (role, name)]
            number = 0 if name else _next_number(form, [groups[other] for other in same])
        groups.setdefault((role, name, number), []).append(form)
    for (role, name, _), group in groups.items():
        language = label_language if label_language != languages.UNDETERMINED else languages.from_name(name)
        shown = name or ("" if language != languages.UNDETERMINED else key[:MAX_NAME])
        is_default = any(form.get(IS_DEFAULT) for form in group)
        yield SubtitleTrack(key[:MAX_NAME], manual, group, language, role, shown, is_default)


def _next_number(form: Info, groups: list[list[Info]]) -> int:
    """Return the first of *groups*, each a track without a name, that lacks the format of *form*."""
    lacking = (n for n, group in enumerate(groups) if all(f.get("ext") != form.get("ext") for f in group))
    return next(lacking, len(groups))


def _with_target(form: Info, key: str, target: str) -> Info:
    """Return *form* with YouTube's language code in its URL in place of yt-dlp's key."""
    return {**form, "url": str(form.get("url") or "").replace(f"tlang={key}", f"tlang={target}")}


def _spoken_language(info: Info) -> str:
    """Return the spoken language of *info* as BCP-47; empty if it is not known."""
    tag = languages.to_tag(clean(info.get("language")))
    return "" if tag == languages.UNDETERMINED else tag


def _automatic_tracks(info: Info) -> list[SubtitleTrack]:
    """Return the tracks of speech recognition without machine translations."""
    tracks = offered_tracks(info, "automatic_captions")
    spoken = _spoken_language(info)
    return [track for track in tracks if track.is_original] or [
        track for track in tracks if not spoken or languages.matches(spoken, track.language)
    ]


def _find_candidates(
    manual: list[SubtitleTrack], automatic: list[SubtitleTrack], requested: str, info: Info
) -> list[SubtitleTrack]:
    """Return the tracks for *requested*: complete ones first, then manual ones, then the nearest variant."""
    language, role = track_roles.split_request(requested)
    found: list[tuple[tuple[int, ...], SubtitleTrack]] = []
    for tracks in (manual, automatic):
        distance_of = (
            _original_distance(tracks, info) if language == "original" else partial(_distance, language)
        )
        for track in tracks:
            distance = distance_of(track)
            if distance is None or (role and track.role != role):
                continue
            complete = track_roles.is_complete(track.role)
            order = (not complete, not track.manual, distance, -track_roles.preference(track.role))
            found.append(((*order, not track.is_default), track))
    return [track for _, track in sorted(found, key=lambda item: item[0])]


def _distance(language: str, track: SubtitleTrack) -> int | None:
    """Return the distance of *track* from *language*; None if it is in another one."""
    # Also equal to a label that is no language.
    label = track.key.removesuffix(_ORIGINAL_SUFFIX)
    return 0 if label.lower() == language.lower() else languages.distance(language, track.language)


def _original_distance(tracks: list[SubtitleTrack], info: Info) -> _DistanceOf:
    """Return a function for the distance of each of *tracks* from the spoken language of *info*."""
    if any(track.is_original for track in tracks):
        return lambda track: 0 if track.is_original else None
    if spoken := _spoken_language(info):
        return partial(_spoken_distance, spoken)
    default_language = _default_audio_language(info)
    if default_language and any(languages.matches(default_language, track.language) for track in tracks):
        return partial(_spoken_distance, default_language)
    # The spoken language is unknown: sites list it first, or mark it.
    complete = [track for track in tracks if track_roles.is_complete(track.role)] or tracks
    first = next((track for track in complete if track.is_default), complete[0] if complete else None)
    return lambda track: 0 if first is not None and track.language == first.language else None


def _spoken_distance(spoken: str, track: SubtitleTrack) -> int | None:
    is_unknown = track.language == languages.UNDETERMINED
    return _UNKNOWN_DISTANCE if is_unknown else languages.distance(spoken, track.language)


def _default_audio_language(info: Info) -> str:
    """Return the language of the audio that a manifest marks as default; empty if it is not one."""
    formats = info.get("formats")
    listed = formats if isinstance(formats, list) else []
    labels = {
        clean(each.get("language")) for each in listed if isinstance(each, dict) and each.get(IS_DEFAULT)
    }
    tags = {languages.to_tag(label) for label in labels} - {languages.UNDETERMINED}
    return tags.pop() if len(tags) == 1 else ""
