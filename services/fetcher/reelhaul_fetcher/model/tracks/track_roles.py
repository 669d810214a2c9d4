"""Track roles: the purposes of tracks of one language, as far as a site states them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from reelhaul.type.v1.media_pb2 import TrackRole

_MAX_NAME = 200
_WORD = re.compile(r"[^\W_]+")

# Patterns of words in names and labels of tracks, in several languages.
_WORDS: dict[TrackRole.ValueType, str] = {
    TrackRole.TRACK_ROLE_DESCRIPTION: (
        r"audio ?d[ei]s[ck]ri\w*|descriptive|described|descr?|descriptions?|ad|dvs|visually impaired"
        r"|h(?:ö|oe)rfassung|sehbehindert\w*|blind\w*|malvoyants?|syns?tolk\w*"
    ),
    TrackRole.TRACK_ROLE_COMMENTARY: (
        r"comments?|commentar(?:y|ies)|commentaires?|[ck]omm?entar(?:e|io|ios)?|commento|director s"
    ),
    TrackRole.TRACK_ROLE_FORCED: (
        r"forced|forc[eé]e?s?|forzad[oa]s?|forzat[oi]|erzwungen\w*|foreign|signs?(?: (?:and )?songs?)?"
    ),
    TrackRole.TRACK_ROLE_HEARING_IMPAIRED: (
        r"sdh|cc|dtvcc\d*|hi|hoh|(?:closed )?captions?|hearing impaired|hard of hearing|deaf|sourds?"
        r"|h(?:ö|oe)rgesch(?:ä|ae)digt\w*|h(?:ö|oe)rbehindert\w*|geh(?:ö|oe)rlos\w*|malentendants?|sordos?"
    ),
}
# A region of Catalan, not audio description.
_ANDORRA = ("ca", "ad")
_PATTERNS = {role: re.compile(rf"\b(?:{words})\b") for role, words in _WORDS.items()}

# In order of preference: a full track before a partial one, a description last.
_ORDER = (
    TrackRole.TRACK_ROLE_UNSPECIFIED,
    TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    TrackRole.TRACK_ROLE_OTHER,
    TrackRole.TRACK_ROLE_FORCED,
    TrackRole.TRACK_ROLE_COMMENTARY,
    TrackRole.TRACK_ROLE_DESCRIPTION,
)
_COMPLETE = frozenset(_ORDER[:3])
# Roles that names of audio tracks can express.
_AUDIO_ROLES = frozenset(_ORDER[4:])

#: Name of each role in file names.
SUFFIX: Mapping[TrackRole.ValueType, str] = {
    TrackRole.TRACK_ROLE_HEARING_IMPAIRED: "sdh",
    TrackRole.TRACK_ROLE_FORCED: "forced",
    TrackRole.TRACK_ROLE_COMMENTARY: "commentary",
    TrackRole.TRACK_ROLE_DESCRIPTION: "description",
    TrackRole.TRACK_ROLE_OTHER: "alternative",
}
#: Name of each role in messages.
TEXT: Mapping[TrackRole.ValueType, str] = {
    TrackRole.TRACK_ROLE_HEARING_IMPAIRED: "for the hard of hearing",
    TrackRole.TRACK_ROLE_FORCED: "forced",
    TrackRole.TRACK_ROLE_COMMENTARY: "commentary",
    TrackRole.TRACK_ROLE_DESCRIPTION: "description",
    TrackRole.TRACK_ROLE_OTHER: "alternative",
}

# RFC 8216, section 4.3.4.1.
_HLS_CHARACTERISTICS = {
    "public.accessibility.describes-video": TrackRole.TRACK_ROLE_DESCRIPTION,
    "public.accessibility.describes-music-and-sound": TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    "public.accessibility.transcribes-spoken-dialog": TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    "public.accessibility.enhances-speech-intelligibility": TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    "public.easy-to-read": TrackRole.TRACK_ROLE_OTHER,
}
# ISO/IEC 23009-1, table 23: urn:mpeg:dash:role:2011.
_DASH_ROLES = {
    "description": TrackRole.TRACK_ROLE_DESCRIPTION,
    "commentary": TrackRole.TRACK_ROLE_COMMENTARY,
    "forced-subtitle": TrackRole.TRACK_ROLE_FORCED,
    "forced_subtitle": TrackRole.TRACK_ROLE_FORCED,
    "caption": TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    "enhanced-audio-intelligibility": TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    "easyreader": TrackRole.TRACK_ROLE_OTHER,
    "sign": TrackRole.TRACK_ROLE_OTHER,
    "emergency": TrackRole.TRACK_ROLE_OTHER,
    "supplementary": TrackRole.TRACK_ROLE_OTHER,
}
# ETSI TS 103 285: urn:tva:metadata:cs:AudioPurposeCS:2007.
_AUDIO_PURPOSES = {
    "1": TrackRole.TRACK_ROLE_DESCRIPTION,
    "2": TrackRole.TRACK_ROLE_HEARING_IMPAIRED,
    "3": TrackRole.TRACK_ROLE_COMMENTARY,
    "4": TrackRole.TRACK_ROLE_COMMENTARY,
}


def preference(role: TrackRole.ValueType) -> int:
    """Return the preference of *role* for a request that names a language only; higher is better."""
    return len(_ORDER) - _ORDER.index(role) if role in _ORDER else 0


def is_complete(role: TrackRole.ValueType) -> bool:
    """Return whether a track of *role* has all of the speech, and no speech about the media."""
    return role in _COMPLETE


def is_role_subtag(language: str, subtag: str) -> bool:
    """Return whether *subtag*, after *language* in a label, names a role and not a region: ``de_sdh``."""
    if (language.lower(), subtag.lower()) == _ANDORRA:
        return False
    return any(pattern.fullmatch(subtag.lower()) for pattern in _PATTERNS.values())


def split_request(requested: str) -> tuple[str, TrackRole.ValueType]:
    """Return the language of a *requested* tag, and the role in its private use part.

    "en-x-forced" is English, forced. A private use part without a role stays in the language.
    """
    language, _, words = requested.partition("-x-")
    role = _first(role for role, pattern in _PATTERNS.items() if pattern.fullmatch(words.lower()))
    return (language, role) if role else (requested, role)


def from_texts(label: str, name: str = "") -> TrackRole.ValueType:
    """Return the role in a site's *label* of a language and *name* of a track."""
    first, *others = _WORD.findall(label[:_MAX_NAME]) or [""]
    words = [word for word in others if is_role_subtag(first, word)]
    # "hi" is Hindi, "HI" is hearing impaired.
    words += [word for word in _WORD.findall(name[:_MAX_NAME]) if len(word) > 2 or word.isupper()]
    text = " ".join(words).lower()
    return _first(role for role, pattern in _PATTERNS.items() if pattern.search(text))


def from_audio_texts(label: str, name: str = "") -> TrackRole.ValueType:
    """Return the role in a site's *label* and *name* of audio, where "HI" is a quality."""
    role = from_texts(label, name)
    return role if role in _AUDIO_ROLES else TrackRole.TRACK_ROLE_UNSPECIFIED


def from_hls(attributes: Mapping[str, str]) -> TrackRole.ValueType:
    """Return the role of the rendition with these *attributes* of its EXT-X-MEDIA."""
    roles = {
        _HLS_CHARACTERISTICS.get(each.strip()) for each in attributes.get("CHARACTERISTICS", "").split(",")
    }
    if attributes.get("FORCED") == "YES":
        roles.add(TrackRole.TRACK_ROLE_FORCED)
    from_names = from_audio_texts if attributes.get("TYPE") == "AUDIO" else from_texts
    by_name = from_names(attributes.get("LANGUAGE", ""), attributes.get("NAME", ""))
    return _first(role for role in reversed(_ORDER) if role in roles) or by_name


def from_dash(descriptors: Collection[tuple[str, str]], label: str, name: str) -> TrackRole.ValueType:
    """Return the role of an AdaptationSet by the scheme and value of each of its *descriptors*.

    Descriptors are Role and Accessibility; *label* is the language, *name* the Label.
    """
    roles = {
        (_AUDIO_PURPOSES if "audiopurpose" in scheme.lower() else _DASH_ROLES).get(value.strip().lower())
        for scheme, value in descriptors
    }
    return _first(role for role in reversed(_ORDER) if role in roles) or from_texts(label, name)


def _first(roles: Iterator[TrackRole.ValueType]) -> TrackRole.ValueType:
    return next(roles, TrackRole.TRACK_ROLE_UNSPECIFIED)
