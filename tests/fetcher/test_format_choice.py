"""What a site does not state is measured in the file: size, frame rate, codec, which streams it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fetcher.conftest import Harness
from tests.sites.media import Media
from tests.sites.site import Site, running_site
from tests.sites.tools import file_digest, run_ffmpeg

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import ArtifactInfo, DeliveredMedia, FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model.engine_requests import RECEIVED_FOLDER
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUDIO, VP9 = FormatSpec.AUDIO, FormatSpec.VP9
MP3 = FormatSpec.Audio(format=FormatSpec.Audio.MP3)

_SOUND = ("-f", "lavfi", "-i", "sine=d=2", "-c:a", "aac")
_H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
_HDR = "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"

# Pages that do not state what their files are.
_PAGES = {
    "big-small": ("big.mp4", "small.mp4"),
    "small-big": ("small.mp4", "big.mp4"),
    "fast-slow": ("big.mp4", "slow.mp4"),
    "slow-fast": ("slow.mp4", "big.mp4"),
    "sound-big": ("sound.mp4", "big.mp4"),
    "big-sound": ("big.mp4", "sound.mp4"),
    "big-silent": ("big.mp4", "silent.mp4"),
    "silent": ("silent.mp4",),
    "bigs": ("big.mp4", "slow.mp4", "silent.mp4", "middle.mp4"),
}


def _picture(size: str, rate: int = 25) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d=2")


def _create(folder: Path) -> None:
    for name, command in {
        "big.mp4": (*_picture("640x360"), *_SOUND, *_H264),
        "middle.mp4": (*_picture("426x240"), *_SOUND, *_H264),
        "small.mp4": (*_picture("256x144"), *_SOUND, *_H264),
        "slow.mp4": (*_picture("640x360", 10), *_SOUND, *_H264),
        "silent.mp4": (*_picture("640x360"), *_H264),
        "sound.mp4": _SOUND,
        "vp9.mp4": (*_picture("256x144"), *_SOUND, "-c:v", "libvpx-vp9", "-cpu-used", "8"),
        "hdr.mp4": (
            *_picture("256x144"),
            *_SOUND,
            "-c:v",
            "libx265",
            "-pix_fmt",
            "yuv420p10le",
            "-x265-params",
            _HDR,
        ),
        "big.m3u8": (*_picture("640x360"), *_SOUND, *_H264, "-hls_playlist_type", "vod"),
        "silent.m3u8": (*_picture("640x360"), *_H264, "-hls_playlist_type", "vod"),
    }.items():
        run_ffmpeg(*command, name, folder=folder)
    for name, sources in _PAGES.items():
        tags = "".join(f'<source src="/{source}" type="video/mp4">' for source in sources)
        (folder / f"{name}.html").write_text(f"<title>A page</title><video>{tags}</video>")


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that states nothing about its media."""
    folder = tmp_path_factory.mktemp("unlabelled")
    _create(folder)
    digests = {f"/{path.name}": file_digest(path) for path in folder.iterdir()}
    with running_site(media=Media(folder, digests)) as site:
        yield site


_EXCEEDED, _BELOW = MediaWarning.LIMIT_EXCEEDED, MediaWarning.HEIGHT_BELOW_ASKED
_CODEC = MediaWarning.CODEC_NOT_OFFERED


@pytest.mark.parametrize(
    ("path", "spec", "height", "rate", "reasons"),
    [
        ("big.mp4", FormatSpec(), 360, 25, []),
        # A limit that the only file breaks.
        ("big.mp4", FormatSpec(max_height=144), 360, 25, [_EXCEEDED]),
        ("big.m3u8", FormatSpec(max_height=240), 360, 25, [_EXCEEDED]),
        ("big.mp4", FormatSpec(max_frame_rate=10), 360, 25, [_EXCEEDED]),
        ("big.mp4", FormatSpec(max_height=240, max_frame_rate=24), 360, 25, [_EXCEEDED, _EXCEEDED]),
        ("bigs.html", FormatSpec(max_height=144), 240, 25, [_EXCEEDED]),
        ("big-small.html", FormatSpec(max_frame_rate=5), 360, 25, [_EXCEEDED]),
        ("big-small.html", FormatSpec(max_height=144, max_frame_rate=5), 144, 25, [_EXCEEDED]),
        # Another file is within the limit.
        ("big-small.html", FormatSpec(max_height=144), 144, 25, []),
        ("small-big.html", FormatSpec(max_height=144), 144, 25, []),
        ("small-big.html", FormatSpec(max_height=240), 144, 25, [_BELOW]),
        ("fast-slow.html", FormatSpec(max_frame_rate=10), 360, 10, []),
        ("slow-fast.html", FormatSpec(max_frame_rate=10), 360, 10, []),
        ("big-small.html", FormatSpec(min_height=360), 360, 25, []),
        ("small-big.html", FormatSpec(min_height=360), 360, 25, []),
        # Preferences.
        ("big.mp4", FormatSpec(max_height=1080), 360, 25, [_BELOW]),
        ("big.mp4", FormatSpec(video_codecs=[VP9]), 360, 25, [_CODEC]),
        ("vp9.mp4", FormatSpec(video_codecs=[VP9]), 144, 25, []),
        # A clip in MP4 is encoded as H.264.
        (
            "vp9.mp4",
            FormatSpec(
                video_codecs=[VP9], container=FormatSpec.MP4, clip=FormatSpec.Clip(end={"seconds": 1})
            ),
            144,
            25,
            [_CODEC],
        ),
        ("hdr.mp4", FormatSpec(dynamic_range=FormatSpec.REQUIRE_HDR), 144, 25, []),
        # Files without video or audio.
        ("sound-big.html", FormatSpec(), 360, 25, []),
        ("big-sound.html", FormatSpec(), 360, 25, []),
        ("silent.mp4", FormatSpec(), 360, 25, []),
        ("silent.m3u8", FormatSpec(), 360, 25, []),
    ],
)
async def test_picture(
    harness: Harness,
    unlabelled: Site,
    path: str,
    spec: FormatSpec,
    height: int,
    rate: float,
    reasons: list[int],
) -> None:
    """The file is within the limits if one that is offered is; otherwise a warning has both values."""
    result = await harness.fetch(unlabelled.url(f"/{path}"), spec)
    assert result.products[0].info.kind == ArtifactInfo.VIDEO
    got = result.delivered
    assert (got.height, round(got.frame_rate)) == (height, rate)
    assert [warning.reason for warning in result.warnings] == reasons
    for warning in result.warnings:
        _assert_both_values(warning, got, spec)


def _assert_both_values(warning: MediaWarning, got: DeliveredMedia, spec: FormatSpec) -> None:
    if warning.reason == _CODEC:
        assert got.video_codec in warning.message
        assert "vp9" in warning.message
    elif "frames" in warning.message:
        assert "25" in warning.message
        assert str(spec.max_frame_rate) in warning.message
    else:
        assert f"{got.width}x{got.height}" in warning.message
        assert f"{spec.max_height}p" in warning.message


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        # Audio of a silent video.
        ("silent.mp4", FormatSpec(media_kind=AUDIO)),
        ("silent.mp4", FormatSpec(media_kind=AUDIO, audio=MP3)),
        ("silent.html", FormatSpec(media_kind=AUDIO)),
        ("silent.m3u8", FormatSpec(media_kind=AUDIO, audio=MP3)),
        ("silent.mp4", FormatSpec(media_kind=AUDIO, clip=FormatSpec.Clip(end={"seconds": 1}))),
        # Contracts.
        ("big.mp4", FormatSpec(min_height=720)),
        ("big-small.html", FormatSpec(min_height=720)),
        ("sound.mp4", FormatSpec(min_height=144)),
        ("big.mp4", FormatSpec(dynamic_range=FormatSpec.REQUIRE_HDR)),
        ("sound.mp4", FormatSpec(dynamic_range=FormatSpec.REQUIRE_HDR)),
    ],
)
async def test_requirement_that_no_file_meets(
    harness: Harness, unlabelled: Site, path: str, spec: FormatSpec
) -> None:
    """A requirement that the files do not meet is FORMAT_UNAVAILABLE, which is not retried."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(unlabelled.url(f"/{path}"), spec)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE
    assert not failure.value.retryable


async def test_file_without_picture(harness: Harness, unlabelled: Site) -> None:
    """A file without a picture is delivered as audio, with a warning, though a video was requested."""
    for spec in (FormatSpec(), FormatSpec(max_height=720), FormatSpec(container=FormatSpec.MP4)):
        result = await harness.fetch(unlabelled.url("/sound.mp4"), spec)
        assert result.products[0].info.kind == ArtifactInfo.AUDIO
        assert result.products[0].info.media_type == "audio/mp4"
        assert [warning.reason for warning in result.warnings] == [MediaWarning.PICTURE_MISSING]


@pytest.mark.parametrize("path", ["big-silent.html", "sound-big.html", "big-sound.html"])
async def test_audio_of_several_files(harness: Harness, unlabelled: Site, path: str) -> None:
    """Audio is taken from the file that has some, and nothing else stays in the folder."""
    result = await harness.fetch(unlabelled.url(f"/{path}"), FormatSpec(media_kind=AUDIO))
    assert (result.delivered.audio_codec, result.delivered.video_codec) == ("aac", "")
    media = result.products[0].path
    assert [path for path in media.parent.iterdir() if path.is_file()] == [media]


async def test_later_attempt_has_the_files_of_all_choices(harness: Harness, unlabelled: Site) -> None:
    """What was received before another format was chosen stays for an attempt after a crash."""
    result = await harness.fetch(unlabelled.url("/small-big.html"), FormatSpec(max_height=240))
    assert result.delivered.height == 144
    received = result.products[0].path.parent / RECEIVED_FOLDER
    sizes = {path.stat().st_size for path in received.glob("*.mp4")}
    assert sizes == {(unlabelled.media.file(f"/{name}.mp4")).stat().st_size for name in ("big", "small")}
