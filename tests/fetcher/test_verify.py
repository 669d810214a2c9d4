"""No file is called good that is not what was promised: each check has a file that fails it alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.sites.site import Site
from tests.sites.tools import run_ffmpeg

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.media import inspector_client, verify
from reelhaul_fetcher.media.verify import Expected
from reelhaul_runtime.errors import ReelhaulError

_SECONDS = 8.0
_WHOLE = Expected(_SECONDS, video=True, audio=True)


@pytest.fixture(autouse=True)
def taster() -> Iterator[None]:
    """A taster, as every child has one."""
    inspector_client.start()
    yield
    inspector_client.stop()


@pytest.fixture
def film(site: Site, tmp_path: Path) -> Path:
    """A copy of a good file, to be spoilt."""
    path = tmp_path / "film.mp4"
    path.write_bytes(site.media.file("/media/360.mp4").read_bytes())
    return path


def _cut(film: Path) -> None:
    os.truncate(film, film.stat().st_size * 6 // 10)


def _blot_the_end(film: Path) -> None:
    with film.open("r+b") as file:
        file.seek(film.stat().st_size - 60_000)
        file.write(bytes(60_000))


def _not_media(film: Path) -> None:
    film.write_text("<!doctype html><title>Sign in</title>")


def _empty(film: Path) -> None:
    film.write_bytes(b"")


def _as_it_is(film: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "promise", "check"),
    [
        (_empty, _WHOLE, "size"),
        (_not_media, _WHOLE, "container"),
        # The header of a file that can be streamed comes first: it promises all that is missing.
        (_cut, _WHOLE, "playable"),
        (_blot_the_end, _WHOLE, "playable"),
        (_as_it_is, replace(_WHOLE, duration=12.0), "duration"),
        (_as_it_is, replace(_WHOLE, duration=4.0), "duration"),
        (_as_it_is, replace(_WHOLE, duration=8.4, slack=0.2), "duration"),
    ],
)
def test_not_as_promised(film: Path, spoil: Callable[[Path], None], promise: Expected, check: str) -> None:
    """A file that is not what was promised fails, and the check that it failed is named."""
    spoil(film)
    with pytest.raises(ReelhaulError) as failure:
        verify.verify(film, promise)
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED
    assert failure.value.metadata["check"] == check


def test_a_stream_is_missing(site: Site, tmp_path: Path) -> None:
    """A file with sound alone is no film, and one without sound is not the whole of it."""
    for path, promise, check in (
        ("/media/audio-en.m4a", replace(_WHOLE, audio=False), "video"),
        ("/hls/360.mp4", replace(_WHOLE, video=False), "audio"),
    ):
        if path.startswith("/hls"):
            file = tmp_path / "silent.mp4"
            pieces = ["360-init.mp4", *(f"360-{number}.m4s" for number in range(4))]
            file.write_bytes(b"".join(site.media.file(f"/hls/{name}").read_bytes() for name in pieces))
        else:
            file = site.media.file(path)
        with pytest.raises(ReelhaulError) as failure:
            verify.verify(file, promise)
        assert failure.value.metadata["check"] == check


@pytest.mark.parametrize("told", [0.0, 7.0, 9.0])
def test_as_promised(film: Path, told: float) -> None:
    """A good file passes, also where a site's figure is a second off, or there is none."""
    got = verify.verify(film, replace(_WHOLE, duration=told))
    assert (got.height, got.video_codec, got.audio_codec, got.duration.seconds) == (360, "h264", "aac", 8)


def test_less_than_was_contracted(film: Path) -> None:
    """A picture that is too small is told as a format that there is not."""
    with pytest.raises(ReelhaulError) as failure:
        verify.verify(film, replace(_WHOLE, min_height=720))
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


def _made(path: Path, *codecs: str) -> Path:
    """Six seconds of picture and sound in *codecs*."""
    picture = ("-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=6")
    run_ffmpeg(*picture, "-f", "lavfi", "-i", "sine=d=6", *codecs, str(path))
    return path


@pytest.mark.parametrize(
    ("name", "codecs", "seen"),
    [
        ("film.webm", ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-c:a", "libopus"), ("vp9", "opus")),
        ("film.mp4", ("-c:v", "libsvtav1", "-preset", "12", "-c:a", "aac"), ("av1", "aac")),
        ("film.mkv", ("-c:v", "libx265", "-preset", "ultrafast", "-c:a", "flac"), ("hevc", "flac")),
        ("film.mp3", ("-vn", "-c:a", "libmp3lame"), ("", "mp3")),
    ],
)
def test_whatever_codec(tmp_path: Path, name: str, codecs: tuple[str, ...], seen: tuple[str, str]) -> None:
    """Films in the codecs that sites have pass, and do not where they end before their header says so."""
    film = _made(tmp_path / name, *codecs)
    promise = Expected(6, video=bool(seen[0]), audio=True)
    got = verify.verify(film, promise)
    assert (got.video_codec, got.audio_codec) == seen
    os.truncate(film, film.stat().st_size * 4 // 10)
    with pytest.raises(ReelhaulError) as failure:
        verify.verify(film, promise)
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED
