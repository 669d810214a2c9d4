"""Recordings end, whatever play times a live playlist states."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from yt_dlp.networking import Response

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.model import hls_playlist
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.downloader import Downloader
from reelhaul_fetcher.ytdlp.live.stream import LiveStreamRecorder, StopReason, recording_time_limit
from reelhaul_runtime.errors import ReelhaulError

URL = "https://cdn.example/live.m3u8"
#: Requests after which a recording is taken for endless.
ENDLESS = 200


class LiveSite:
    """A downloader of a live stream; *playlist* returns its text at the n-th refresh."""

    def __init__(self, playlist: Callable[[int], str]) -> None:
        self._playlist = playlist
        self.refreshes = self.segments = 0

    def urlopen(self, request: Any) -> Response:
        if self.refreshes + self.segments > ENDLESS:
            raise AssertionError("the recording does not end")
        if request.url == URL:
            self.refreshes += 1
            return Response(io.BytesIO(self._playlist(self.refreshes).encode()), URL, {})
        self.segments += 1
        return Response(io.BytesIO(b"segment"), request.url, {})


def growing(play_time: str, target: str = "1", count: int = 50) -> Callable[[int], str]:
    """Return a live playlist of *count* new segments at each refresh, each of *play_time*."""

    def playlist(refresh: int) -> str:
        first = refresh * count
        head = f"#EXTM3U\n#EXT-X-TARGETDURATION:{target}\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
        return head + "".join(f"#EXTINF:{play_time},\n{first + n}.ts\n" for n in range(count))

    return playlist


def record(folder: Path, site: LiveSite, **limits: float) -> tuple[StopReason.ValueType, LiveStreamRecorder]:
    """Record *site* within *limits*; return why that ended, and the recorder."""
    spec = FormatSpec(live=FormatSpec.Live(mode=FormatSpec.Live.RECORD, from_start=True))
    request = FetchRequest("https://video.example/", spec, folder, "", **cast("Any", limits))
    clock = itertools.count()
    recorder = LiveStreamRecorder(
        cast("Downloader", site),
        {"url": URL},
        "live",
        folder / "stream.ts",
        request,
        ProgressTracker(lambda _: None, lambda: float(next(clock))),
        lambda: MediaWarning.REASON_UNSPECIFIED,
    )
    return recorder.run(), recorder


@pytest.mark.parametrize(
    "play_time", ["nan", "-nan", "inf", "-inf", "1e400", "-1", "-0.5", "9" * 5000, "²", ""]
)
def test_invalid_play_time(tmp_path: Path, play_time: str) -> None:
    """A playlist whose play times are not finite and positive is not recorded."""
    with pytest.raises(ReelhaulError) as failure:
        record(tmp_path, LiveSite(growing(play_time)), record_seconds=3)
    assert failure.value.reason == ErrorReason.FORMAT_UNAVAILABLE


@pytest.mark.parametrize("play_time", ["0", "0.0", "-0", "1e-9", "5e-324"])
def test_tiny_play_time(tmp_path: Path, play_time: str) -> None:
    """Segments that claim to be shorter than any segment count as a tenth of a second."""
    site = LiveSite(growing(play_time))
    reason, recorder = record(tmp_path, site, record_seconds=3)
    assert (reason, site.segments) == (MediaWarning.RECORDING_CUT, 30)
    assert recorder.seconds == pytest.approx(3)


@pytest.mark.parametrize(("play_time", "segments"), [("1", 3), ("0.5", 6), ("2.000", 2)])
def test_ordinary_play_time(tmp_path: Path, play_time: str, segments: int) -> None:
    """An ordinary live stream is recorded up to the limit of play time."""
    site = LiveSite(growing(play_time))
    reason, recorder = record(tmp_path, site, record_seconds=3)
    assert (reason, site.segments) == (MediaWarning.RECORDING_CUT, segments)
    assert recorder.seconds == segments * float(play_time)


@pytest.mark.parametrize("target", ["nan", "inf", "-1", "9" * 5000, "²"], ids=lambda value: ascii(value)[:10])
def test_invalid_target_duration(target: str) -> None:
    """A target duration that is none is replaced by the usual one: it sets the pace of the refreshes."""
    playlist = hls_playlist.parse(growing("1", target)(1), URL)
    assert playlist.target_seconds == 6.0
    assert hls_playlist.parse(growing("1", "4")(1), URL).target_seconds == 4.0


@pytest.mark.parametrize("sequence", ["²", "9" * 5000, "-1", "nan"], ids=lambda value: ascii(value)[:10])
def test_invalid_media_sequence(sequence: str) -> None:
    """A media sequence number that is none makes the playlist unsupported."""
    text = f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:{sequence}\n#EXTINF:1,\na.ts\n"
    with pytest.raises(hls_playlist.PlaylistUnsupported):
        hls_playlist.parse(text, URL)


@pytest.mark.parametrize("target", ["nan", "1"])
def test_time_limit_without_new_segments(tmp_path: Path, target: str) -> None:
    """A live stream that shows no new segments, and does not end, is recorded up to the limit of time."""
    site = LiveSite(lambda _: growing("1", target)(1))
    reason, recorder = record(tmp_path, site, record_seconds=600, record_timeout_seconds=1)
    assert (reason, recorder.seconds) == (MediaWarning.RECORDING_CUT, 50)
    assert site.refreshes < 10


def test_end_of_the_stream(tmp_path: Path) -> None:
    """A live stream that ends within the limits is recorded to its end, without a warning."""
    site = LiveSite(lambda _: growing("1")(1) + "#EXT-X-ENDLIST\n")
    reason, recorder = record(tmp_path, site, record_seconds=600, record_timeout_seconds=600)
    assert (reason, recorder.seconds) == (MediaWarning.REASON_UNSPECIFIED, 50)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"record_seconds": 3600}, 7260),
        ({"record_seconds": 3600, "record_timeout_seconds": 10_000}, 7260),
        ({"record_seconds": 3600, "record_timeout_seconds": 300}, 300),
        ({}, 86_400),
    ],
)
def test_recording_time_limit(tmp_path: Path, limits: dict[str, float], seconds: float) -> None:
    """Every recording is bounded by wall clock too: by its attempt's deadline, and by its play time."""
    request = FetchRequest("https://video.example/", FormatSpec(), tmp_path, "", **cast("Any", limits))
    assert recording_time_limit(request) == seconds


def test_page_in_place_of_late_audio(tmp_path: Path) -> None:
    """A page in place of the playlist of audio costs a recording that has begun no more than the audio."""
    site = LiveSite(lambda _: "<html>busy</html>")
    _, video = record(tmp_path, LiveSite(growing("1")), record_seconds=3.0)
    audio = LiveStreamRecorder(
        cast("Downloader", site),
        {"url": URL},
        "audio",
        tmp_path / "audio.ts",
        FetchRequest("https://video.example/", FormatSpec(), tmp_path, ""),
        ProgressTracker(lambda _: None, lambda: 0.0),
        lambda: MediaWarning.REASON_UNSPECIFIED,
    )
    with pytest.raises(ReelhaulError):
        audio.fetch_first_playlist()
    audio.parallel = [video, audio]
    assert not audio.fetch_first_playlist().segments
