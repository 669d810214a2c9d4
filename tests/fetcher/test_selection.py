"""Format selection: which of the formats offered are chosen for a request."""

from __future__ import annotations

import pytest

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, FormatSpec
from reelhaul_fetcher.model.packaging import plan_package
from reelhaul_fetcher.model.selection import choose_formats
from reelhaul_fetcher.ytdlp.format_selector import select_formats
from reelhaul_runtime.errors import ReelhaulError


def video(name: str, height: int, codec: str, **fields: object) -> Format:
    """Return a video-only format."""
    return Format(format_id=name, height=height, width=height * 16 // 9, video_codec=codec, **fields)  # type: ignore[arg-type]


def audio(name: str, codec: str, **fields: object) -> Format:
    """Return an audio-only format."""
    return Format(format_id=name, audio_codec=codec, **fields)  # type: ignore[arg-type]


OFFERED = [
    audio("140", "mp4a.40.2", bitrate_bps=128_000, language_code="en", original_audio=True),
    audio("251", "opus", bitrate_bps=160_000, language_code="en", original_audio=True),
    audio("251-de", "opus", bitrate_bps=160_000, language_code="de", original_audio=False),
    Format(format_id="18", height=360, width=640, video_codec="avc1.42001E", audio_codec="mp4a.40.2"),
    video("136", 720, "avc1.4d401f", frame_rate=30),
    video("298", 720, "avc1.4d4020", frame_rate=60),
    video("137", 1080, "avc1.640028", frame_rate=30),
    video("248", 1080, "vp9", frame_rate=30),
    video("399", 1080, "av01.0.08M.08", frame_rate=30),
    video("337", 2160, "vp9.2", frame_rate=30, dynamic_range="HDR10"),
    video("313", 2160, "vp9", frame_rate=30),
]

H264, VP9 = FormatSpec.H264, FormatSpec.VP9
AUDIO = FormatSpec.AUDIO


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        (FormatSpec(), ["313", "140"]),
        (FormatSpec(max_height=1080), ["399", "140"]),
        (FormatSpec(max_height=1080, video_codecs=[H264]), ["137", "140"]),
        (FormatSpec(max_height=1080, container=FormatSpec.WEBM), ["399", "251"]),
        (FormatSpec(max_height=1080, container=FormatSpec.WEBM, video_codecs=[VP9]), ["248", "251"]),
        (FormatSpec(max_height=720), ["298", "140"]),
        (FormatSpec(max_height=720, max_frame_rate=30), ["136", "140"]),
        (FormatSpec(max_height=480), ["18"]),
        (FormatSpec(dynamic_range=FormatSpec.PREFER_HDR), ["337", "140"]),
        (FormatSpec(dynamic_range=FormatSpec.REQUIRE_HDR, max_height=2160), ["337", "140"]),
        (FormatSpec(media_kind=AUDIO), ["251"]),
        (FormatSpec(media_kind=AUDIO, audio=FormatSpec.Audio(format=FormatSpec.Audio.M4A)), ["140"]),
        (FormatSpec(media_kind=AUDIO, audio=FormatSpec.Audio(languages=["de", "original"])), ["251-de"]),
    ],
)
def test_ranking(spec: FormatSpec, chosen: list[str]) -> None:
    """Height counts first, then frame rate, dynamic range and codec; audio is the original language's."""
    streams, _ = choose_formats(OFFERED, spec, select_formats)
    assert chosen == [stream.format_id for stream in streams]


@pytest.mark.parametrize(
    "spec",
    [
        FormatSpec(max_height=240),
        FormatSpec(min_height=4320),
        FormatSpec(dynamic_range=FormatSpec.REQUIRE_HDR, max_height=1080),
        FormatSpec(audio=FormatSpec.Audio(languages=["fr"], language_required=True)),
    ],
)
def test_nothing_meets_the_request(spec: FormatSpec) -> None:
    """A request that no format meets is FORMAT_UNAVAILABLE; nothing else is chosen instead."""
    with pytest.raises(ReelhaulError) as failure:
        choose_formats(OFFERED, spec, select_formats)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


def test_excluded_codecs() -> None:
    """Formats in excluded codecs are not chosen, even if the others are lower; alone they are unavailable."""
    streams, _ = choose_formats(
        OFFERED, FormatSpec(max_height=1080), select_formats, frozenset({"av1", "vp9"})
    )
    assert [stream.format_id for stream in streams] == ["137", "140"]
    only = [video("399", 1080, "av01.0.08M.08"), audio("140", "mp4a.40.2")]
    with pytest.raises(ReelhaulError) as failure:
        choose_formats(only, FormatSpec(), select_formats, frozenset({"av1"}))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


def test_warnings() -> None:
    """A lower height, another codec and another language are warnings."""
    spec = FormatSpec(max_height=4320, video_codecs=[H264], audio=FormatSpec.Audio(languages=["fr"]))
    _, warnings = choose_formats(OFFERED, spec, select_formats)
    assert [warning.reason for warning in warnings] == [
        media_pb2.Warning.HEIGHT_BELOW_ASKED,
        media_pb2.Warning.CODEC_NOT_OFFERED,
        media_pb2.Warning.AUDIO_LANGUAGE_DIFFERS,
    ]


def test_portrait_height() -> None:
    """The height of a portrait video is its shorter side: 1080×1920 is 1080."""
    portrait = Format(format_id="up", width=1080, height=1920, video_codec="avc1", audio_codec="mp4a")
    streams, warnings = choose_formats([portrait], FormatSpec(max_height=1080), select_formats)
    assert ([stream.format_id for stream in streams], warnings) == (["up"], [])


def test_drm() -> None:
    """DRM-protected formats are not chosen; alone they are MEDIA_DRM_PROTECTED."""
    protected = video("drm", 4320, "avc1", drm=True)
    assert choose_formats([*OFFERED, protected], FormatSpec(), select_formats)[0][0].format_id == "313"
    with pytest.raises(ReelhaulError) as failure:
        choose_formats([protected], FormatSpec(), select_formats)
    assert failure.value.reason == ErrorReason.MEDIA_DRM_PROTECTED


SMALLEST_OFFERED = [
    Format(format_id="low", width=640, height=360, video_codec="avc1", bitrate_bps=300),
    Format(format_id="lower", width=640, height=360, video_codec="avc1", bitrate_bps=200),
    Format(format_id="tall", width=1920, height=1080, video_codec="avc1", bitrate_bps=900),
    Format(format_id="unknown", video_codec="avc1", bitrate_bps=100),
    Format(format_id="thin", audio_codec="mp4a", bitrate_bps=48),
    Format(format_id="rich", audio_codec="mp4a", bitrate_bps=128),
]


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        (FormatSpec(smallest=True), ["lower", "thin"]),
        (FormatSpec(), ["tall", "rich"]),
        (FormatSpec(smallest=True, min_height=720), ["tall", "thin"]),
        (FormatSpec(smallest=True, media_kind=AUDIO), ["thin"]),
    ],
)
def test_smallest(spec: FormatSpec, chosen: list[str]) -> None:
    """``smallest`` chooses the lowest known height, then bitrate, within min_height."""
    streams, _ = choose_formats(SMALLEST_OFFERED, spec, select_formats)
    assert chosen == [stream.format_id for stream in streams]


@pytest.mark.parametrize(
    ("codecs", "spec", "extension", "transcodes"),
    [
        (("h264", "aac"), FormatSpec(), "mp4", False),
        (("vp9", "opus"), FormatSpec(), "mkv", False),
        (("vp9", "opus"), FormatSpec(container=FormatSpec.MP4), "mp4", False),
        (("vp8", "vorbis"), FormatSpec(container=FormatSpec.MP4), "mp4", True),
        (("h264", "aac"), FormatSpec(container=FormatSpec.WEBM), "webm", True),
        (("h264", "aac"), FormatSpec(container=FormatSpec.MKV), "mkv", False),
        (("h264", ""), FormatSpec(), "mp4", False),
        (("", "opus"), FormatSpec(media_kind=AUDIO), "opus", False),
        (("", "aac"), FormatSpec(media_kind=AUDIO), "m4a", False),
    ],
)
def test_packages(codecs: tuple[str, str], spec: FormatSpec, extension: str, transcodes: bool) -> None:
    """Streams are copied into a container that supports them; the default container never transcodes."""
    package = plan_package(*codecs, spec)
    assert (extension, transcodes) == (package.extension, package.transcodes)
