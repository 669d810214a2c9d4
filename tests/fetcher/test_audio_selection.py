"""Audio: the requested language and the main sound are chosen, before quality; a difference is a warning."""

from __future__ import annotations

from typing import Any

import pytest

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, FormatSpec, TrackRole
from reelhaul_fetcher.model.selection import choose_formats
from reelhaul_fetcher.ytdlp.format_selector import select_formats
from reelhaul_runtime.errors import ReelhaulError

DESCRIPTION = TrackRole.TRACK_ROLE_DESCRIPTION
COMMENTARY = TrackRole.TRACK_ROLE_COMMENTARY
CLEAR = TrackRole.TRACK_ROLE_HEARING_IMPAIRED
DIFFERS, ROLE_DIFFERS = media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS, media_pb2.Warning.TRACK_ROLE_DIFFERS


def video(name: str = "v", height: int = 720, **fields: Any) -> Format:
    """Return a video; with ``audio_codec``, one that has audio."""
    return Format(format_id=name, width=height * 16 // 9, height=height, video_codec="avc1", **fields)


def muxed(name: str, language: str = "", height: int = 720, **fields: Any) -> Format:
    """Return a video with audio in *language*."""
    return video(name, height, audio_codec="mp4a", language_code=language, **fields)


def audio(name: str, language: str = "", bitrate: int = 100, **fields: Any) -> Format:
    """Return audio in *language*."""
    return Format(
        format_id=name, audio_codec="mp4a", language_code=language, bitrate_bps=bitrate * 1000, **fields
    )


MAIN, DESCRIBED = audio("main", "en"), audio("ad", "en", 200, role=DESCRIPTION)


@pytest.mark.parametrize(
    ("offered", "languages", "chosen", "warning"),
    [
        pytest.param([MAIN, DESCRIBED, video()], [], ["v", "main"], 0, id="description last"),
        pytest.param([DESCRIBED, MAIN, video()], [], ["v", "main"], 0, id="description first"),
        pytest.param([MAIN, DESCRIBED, video()], ["en"], ["v", "main"], 0, id="description and language"),
        pytest.param([MAIN, DESCRIBED, video()], ["en-x-desc"], ["v", "ad"], 0, id="description requested"),
        pytest.param([MAIN, video()], ["en-x-desc"], ["v", "main"], DIFFERS, id="no description"),
        pytest.param([DESCRIBED, video()], [], ["v", "ad"], ROLE_DIFFERS, id="only a description"),
        pytest.param(
            [DESCRIBED, audio("fr", "fr"), video()],
            ["en"],
            ["v", "fr"],
            DIFFERS,
            id="described in the language",
        ),
        pytest.param(
            [audio("c", "en", role=COMMENTARY), MAIN, video()], ["en"], ["v", "main"], 0, id="commentary"
        ),
        pytest.param(
            [audio("clear", "en", 200, role=CLEAR), MAIN, video()],
            ["en"],
            ["v", "main"],
            0,
            id="clear speech",
        ),
        pytest.param([DESCRIBED, muxed("v", "en")], [], ["v"], 0, id="main sound within the video"),
        pytest.param([DESCRIBED, muxed("v")], ["en"], ["v"], DIFFERS, id="its language is unknown"),
        pytest.param(
            [audio("de", "de"), muxed("v", "en")], ["de"], ["v", "de"], 0, id="other than the video's"
        ),
        pytest.param([audio("de", "de"), muxed("v", "en")], [], ["v"], 0, id="the video's own"),
        pytest.param([muxed("de", "de", 360), muxed("en", "en", 720)], ["de"], ["de"], 0, id="before height"),
        pytest.param([muxed("de", "de"), muxed("en", "en")], ["fr", "de"], ["de"], 0, id="second choice"),
        pytest.param([muxed("v", "en")], ["de"], ["v"], DIFFERS, id="video in another language"),
        pytest.param([muxed("v")], ["de"], ["v"], DIFFERS, id="video in an unknown language"),
        pytest.param([video()], ["de"], ["v"], DIFFERS, id="no audio"),
        pytest.param([muxed("v", height=360), video("big", 1080)], [], ["v"], 0, id="sound before height"),
        pytest.param(
            [video("v", 360, audio_codec="unknown"), video("big", 1080)],
            [],
            ["big"],
            0,
            id="perhaps no sound",
        ),
        pytest.param([muxed("v")], [], ["v"], 0, id="nothing requested"),
        pytest.param(
            [audio("de", "de", 200), audio("en", "en", default_audio=True), video()],
            [],
            ["v", "en"],
            0,
            id="default",
        ),
        pytest.param(
            [
                audio("dub", "en", default_audio=True, original_audio=False),
                audio("o", "de", original_audio=True),
                video(),
            ],
            [],
            ["v", "o"],
            0,
            id="original before default",
        ),
        pytest.param(
            [audio("gb", "en-GB", 200), audio("us", "en-US"), video()], ["en-US"], ["v", "us"], 0, id="region"
        ),
        pytest.param([audio("us", "en-US"), video()], ["en"], ["v", "us"], 0, id="any region"),
        pytest.param([audio("us", "en-US"), video()], ["en-GB"], ["v", "us"], DIFFERS, id="another region"),
        pytest.param([audio("zh", "zh-Hans"), video()], ["cmn"], ["v", "zh"], 0, id="macro language"),
        pytest.param([audio("nb", "nb"), audio("da", "da"), video()], ["no"], ["v", "nb"], 0, id="Norwegian"),
    ],
)
def test_choice(
    offered: list[Format],
    languages: list[str],
    chosen: list[str],
    warning: media_pb2.Warning.Reason.ValueType,
) -> None:
    """Language and role count before height and bitrate."""
    spec = FormatSpec(audio=FormatSpec.Audio(languages=languages))
    streams, warnings = choose_formats(offered, spec, select_formats)
    assert [stream.format_id for stream in streams] == chosen
    assert [each.reason for each in warnings] == ([warning] if warning else [])


@pytest.mark.parametrize(
    ("offered", "languages", "chosen"),
    [
        ([MAIN, DESCRIBED], [], "main"),
        ([DESCRIBED, MAIN], ["en"], "main"),
        ([DESCRIBED, MAIN], ["en-x-desc"], "ad"),
        ([DESCRIBED, muxed("v", "en")], [], "v"),
        ([audio("de", "de"), muxed("v", "en")], ["en"], "v"),
        ([audio("de", "de"), muxed("v", "en")], ["de"], "de"),
        ([muxed("big", "en", 1080), muxed("small", "en", 360)], ["en"], "small"),
    ],
)
def test_audio_only(offered: list[Format], languages: list[str], chosen: str) -> None:
    """Audio without video is chosen alike, also from within a video if only that has it."""
    spec = FormatSpec(media_kind=FormatSpec.AUDIO, audio=FormatSpec.Audio(languages=languages))
    streams, warnings = choose_formats(offered, spec, select_formats)
    assert ([stream.format_id for stream in streams], warnings) == ([chosen], [])


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ([MAIN, video()], "no audio in de is offered: the audio is in en"),
        ([muxed("v", "en")], "no audio in de is offered: the audio is in en"),
        ([muxed("v")], "the site does not state the language of its audio; de was requested"),
        ([DESCRIBED, video()], "no audio in de is offered: the audio is in en (description)"),
        ([video()], "this media has no audio; de was requested"),
    ],
)
def test_messages(offered: list[Format], message: str) -> None:
    """A warning says what came instead; with ``language_required`` that is the failure."""
    spec = FormatSpec(audio=FormatSpec.Audio(languages=["de"]))
    _, (warning,) = choose_formats(offered, spec, select_formats)
    assert warning.message.startswith(message)
    assert warning.language_code == "de"
    spec.audio.language_required = True
    with pytest.raises(ReelhaulError) as failure:
        choose_formats(offered, spec, select_formats)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
