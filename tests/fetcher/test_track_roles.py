"""Roles of tracks: full, forced, for the hard of hearing, commentary and description are distinguished."""

from __future__ import annotations

import pytest

from reelhaul.type.v1.media_pb2 import TrackRole
from reelhaul_fetcher.model.tracks import track_roles

FULL = TrackRole.TRACK_ROLE_UNSPECIFIED
SDH = TrackRole.TRACK_ROLE_HEARING_IMPAIRED
FORCED = TrackRole.TRACK_ROLE_FORCED
COMMENTARY = TrackRole.TRACK_ROLE_COMMENTARY
DESCRIPTION = TrackRole.TRACK_ROLE_DESCRIPTION
OTHER = TrackRole.TRACK_ROLE_OTHER
_ROLE, _PURPOSE = "urn:mpeg:dash:role:2011", "urn:tva:metadata:cs:AudioPurposeCS:2007"


@pytest.mark.parametrize(
    ("label", "name", "role"),
    [
        *(
            ("en", "English", FULL),
            ("en", "", FULL),
            ("", "", FULL),
            ("hi", "Hindi", FULL),
            ("hi", "hi", FULL),
        ),
        *(
            ("hi-IN", "हिन्दी", FULL),
            ("ca-AD", "Català", FULL),
            ("ad", "", FULL),
            ("de", "Deutsch (Österreich)", FULL),
        ),
        *(("de_sdh", "", SDH), ("en-CC", "", SDH), ("en", "English [CC]", SDH), ("en", "English (SDH)", SDH)),
        *(
            ("en", "English HI", SDH),
            ("de", "Deutsch (Hörgeschädigte)", SDH),
            ("fr", "Sourds et malentendants", SDH),
        ),
        *(("en", "DTVCC1", SDH), ("en", "English closed captions", SDH)),
        *(("en", "English (forced)", FORCED), ("fr", "Français forcé", FORCED), ("en-forced", "", FORCED)),
        *(("en", "Signs & Songs", FORCED), ("en", "Foreign parts only", FORCED), ("es", "Forzados", FORCED)),
        *(
            ("en", "Director's Commentary", COMMENTARY),
            ("de", "Kommentar", COMMENTARY),
            ("en-x-comment", "", COMMENTARY),
        ),
        *(("en", "English - Audio Description", DESCRIPTION), ("en-desc", "", DESCRIPTION)),
        *(
            ("en", "English descriptive", DESCRIPTION),
            ("de", "Hörfassung", DESCRIPTION),
            ("en", "AD", DESCRIPTION),
        ),
        *(("fr", "Audiodescription", DESCRIPTION), ("es", "Audiodescripción", DESCRIPTION)),
        *(
            ("sv", "Syntolkning", DESCRIPTION),
            ("en_ad", "", DESCRIPTION),
            ("de", "Audiodeskription", DESCRIPTION),
        ),
    ],
)
def test_texts(label: str, name: str, role: TrackRole.ValueType) -> None:
    """The role of a track is read from its name, and from subtags after the language in its label."""
    assert track_roles.from_texts(label, name) == role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(("HI", FULL), ("CC", FULL), ("Signs", FULL), ("English", FULL), ("1080p60 HDR", FULL)),
        *(
            ("Audio Description", DESCRIPTION),
            ("English descriptive", DESCRIPTION),
            ("Commentary", COMMENTARY),
        ),
    ],
)
def test_audio_texts(name: str, role: TrackRole.ValueType) -> None:
    """From names of audio, only the roles description and commentary are read."""
    assert track_roles.from_audio_texts("en", name) == role
    assert track_roles.from_hls({"TYPE": "AUDIO", "NAME": name}) == role


@pytest.mark.parametrize(
    ("attributes", "role"),
    [
        ({"NAME": "English"}, FULL),
        ({"CHARACTERISTICS": "public.accessibility.describes-video"}, DESCRIPTION),
        ({"CHARACTERISTICS": "x.y, public.accessibility.describes-music-and-sound"}, SDH),
        ({"CHARACTERISTICS": "public.accessibility.transcribes-spoken-dialog,public.easy-to-read"}, OTHER),
        ({"FORCED": "YES", "NAME": "English"}, FORCED),
        ({"FORCED": "NO", "NAME": "English"}, FULL),
        ({"FORCED": "NO", "NAME": "English (forced)"}, FORCED),
        ({"LANGUAGE": "de_sdh"}, SDH),
        ({"CHARACTERISTICS": ""}, FULL),
    ],
)
def test_hls(attributes: dict[str, str], role: TrackRole.ValueType) -> None:
    """The role of an HLS rendition is read from its attributes."""
    assert track_roles.from_hls(attributes) == role


@pytest.mark.parametrize(
    ("descriptors", "name", "role"),
    [
        ([(_ROLE, "main")], "", FULL),
        ([(_ROLE, "alternate"), (_PURPOSE, "1")], "", DESCRIPTION),
        ([(_ROLE, "description")], "", DESCRIPTION),
        ([(_ROLE, "main"), (_ROLE, "caption")], "", SDH),
        ([(_ROLE, "forced-subtitle")], "", FORCED),
        ([(_ROLE, "commentary")], "", COMMENTARY),
        ([(_PURPOSE, "4")], "", COMMENTARY),
        ([(_PURPOSE, "2")], "", SDH),
        ([(_ROLE, "alternate")], "Audio description", DESCRIPTION),
        ([(_ROLE, "1")], "", FULL),
        ([], "English", FULL),
    ],
)
def test_dash(descriptors: list[tuple[str, str]], name: str, role: TrackRole.ValueType) -> None:
    """The role of an AdaptationSet is read from Role, Accessibility and Label."""
    assert track_roles.from_dash(descriptors, "en", name) == role


@pytest.mark.parametrize(
    ("requested", "language", "role"),
    [
        *(
            ("en", "en", FULL),
            ("en-x-forced", "en", FORCED),
            ("de-AT-x-sdh", "de-AT", SDH),
            ("x-klingon", "x-klingon", FULL),
        ),
        *(
            ("en-x-desc", "en", DESCRIPTION),
            ("original-x-ad", "original", DESCRIPTION),
            ("en-x-twain", "en-x-twain", FULL),
        ),
        *(("fr-x-comment", "fr", COMMENTARY), ("fr-x-cc", "fr", SDH)),
    ],
)
def test_requests(requested: str, language: str, role: TrackRole.ValueType) -> None:
    """A request names a role in the private use part of its tag."""
    assert track_roles.split_request(requested) == (language, role)


def test_order() -> None:
    """The full track is the default; a description comes last."""
    order = [FULL, SDH, OTHER, FORCED, COMMENTARY, DESCRIPTION]
    preferences = [track_roles.preference(role) for role in order]
    assert preferences == sorted(set(preferences), reverse=True)
