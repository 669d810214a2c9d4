"""Verification of finished files: for each check there is a file that fails it alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sites.site import Site
from tests.sites.tools import run_ffmpeg

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.media import inspector_client
from reelhaul_fetcher.media.verify import Expected, verify
from reelhaul_runtime.errors import ReelhaulError

_SECONDS = 8.0
_EXPECTED = Expected(_SECONDS, video=True, audio=True)


@pytest.fixture(autouse=True)
def inspector() -> Iterator[None]:
    """An inspector, as in every child."""
    inspector_client.start()
    yield
    inspector_client.stop()


@pytest.fixture
def file(site: Site, tmp_path: Path) -> Path:
    """A copy of a valid file."""
    path = tmp_path / "video.mp4"
    path.write_bytes(site.media.file("/media/360.mp4").read_bytes())
    return path


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size * 6 // 10)


def _zero_the_end(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size - 60_000)
        opened.write(bytes(60_000))


def _replace_by_html(file: Path) -> None:
    file.write_text("<!doctype html><title>Sign in</title>")


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _keep(file: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "expected", "check"),
    [
        (_empty, _EXPECTED, "size"),
        (_replace_by_html, _EXPECTED, "container"),
        # The header of a streamable file comes first, and declares the whole duration.
        (_truncate, _EXPECTED, "playable"),
        (_zero_the_end, _EXPECTED, "playable"),
        (_keep, replace(_EXPECTED, duration=12.0), "duration"),
        (_keep, replace(_EXPECTED, duration=4.0, tolerance=0.5), "duration"),
        (_keep, replace(_EXPECTED, duration=8.4, tolerance=0.2), "duration"),
    ],
)
def test_unexpected_file(file: Path, change: Callable[[Path], None], expected: Expected, check: str) -> None:
    """A file that is not as expected fails with the name of the failed check."""
    change(file)
    with pytest.raises(ReelhaulError) as failure:
        verify(file, expected)
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED
    assert failure.value.metadata["check"] == check


def test_missing_stream(site: Site, tmp_path: Path) -> None:
    """A file without video, and one without audio, fail where both are expected."""
    for path, expected, check in (
        ("/media/audio-en.m4a", replace(_EXPECTED, audio=False), "video"),
        ("/hls/360.mp4", replace(_EXPECTED, video=False), "audio"),
    ):
        if path.startswith("/hls"):
            file = tmp_path / "silent.mp4"
            segments = ["360-init.mp4", *(f"360-{number}.m4s" for number in range(4))]
            file.write_bytes(b"".join(site.media.file(f"/hls/{name}").read_bytes() for name in segments))
        else:
            file = site.media.file(path)
        with pytest.raises(ReelhaulError) as failure:
            verify(file, expected)
        assert failure.value.metadata["check"] == check


@pytest.mark.parametrize("duration", [0.0, 4.0, 7.0, 9.0])
def test_expected_file(file: Path, duration: float) -> None:
    """A valid file passes, also if it is longer than expected, a second shorter, or nothing is expected."""
    got = verify(file, replace(_EXPECTED, duration=duration))
    assert (got.height, got.video_codec, got.audio_codec, got.duration.seconds) == (360, "h264", "aac", 8)


def test_too_small_video(file: Path) -> None:
    """A video below the minimum height fails as an unavailable format."""
    with pytest.raises(ReelhaulError) as failure:
        verify(file, replace(_EXPECTED, min_height=720))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


def _encode(path: Path, *codecs: str) -> Path:
    """Encode six seconds of video and audio in *codecs*."""
    video = ("-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=6")
    run_ffmpeg(*video, "-f", "lavfi", "-i", "sine=d=6", *codecs, str(path))
    return path


@pytest.mark.parametrize(
    ("name", "codecs", "detected"),
    [
        ("video.webm", ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-c:a", "libopus"), ("vp9", "opus")),
        ("video.mp4", ("-c:v", "libsvtav1", "-preset", "12", "-c:a", "aac"), ("av1", "aac")),
        ("video.mkv", ("-c:v", "libx265", "-preset", "ultrafast", "-c:a", "flac"), ("hevc", "flac")),
        ("video.mp3", ("-vn", "-c:a", "libmp3lame"), ("", "mp3")),
    ],
)
def test_codecs(tmp_path: Path, name: str, codecs: tuple[str, ...], detected: tuple[str, str]) -> None:
    """Files in the codecs that sites use pass, and fail if they are truncated."""
    file = _encode(tmp_path / name, *codecs)
    expected = Expected(6, video=bool(detected[0]), audio=True)
    got = verify(file, expected)
    assert (got.video_codec, got.audio_codec) == detected
    os.truncate(file, file.stat().st_size * 4 // 10)
    with pytest.raises(ReelhaulError) as failure:
        verify(file, expected)
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED


@pytest.mark.parametrize("seconds", [1, 6])
@pytest.mark.parametrize(
    ("name", "degrees", "displayed"),
    [
        ("video.mp4", 0, (320, 180)),
        ("video.mp4", 90, (180, 320)),
        ("video.mp4", 180, (320, 180)),
        ("video.mp4", 270, (180, 320)),
        ("video.mp4", -90, (180, 320)),
        ("video.mov", 90, (180, 320)),
        ("video.mkv", 90, (180, 320)),
    ],
)
def test_rotated_video(
    tmp_path: Path, name: str, degrees: int, displayed: tuple[int, int], seconds: int
) -> None:
    """Width and height are those of the picture as it is displayed, also for the minimum."""
    flat, file = tmp_path / "flat.mp4", tmp_path / name
    picture = ("-f", "lavfi", "-i", f"testsrc2=s=320x180:r=25:d={seconds}")
    run_ffmpeg(*picture, "-c:v", "libx264", "-preset", "ultrafast", str(flat))
    run_ffmpeg("-display_rotation", str(degrees), "-i", str(flat), "-c", "copy", str(file))
    got = verify(file, Expected(seconds, video=True, audio=False, min_height=180))
    assert (got.width, got.height) == displayed
