"""Live and upcoming events: rejected unless the request allows them, recorded to a file that plays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites import synchronized, tools
from tests.sites.broadcast import Broadcast, BroadcastSite, Stream, running_broadcasts
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Live = FormatSpec.Live


@pytest.mark.parametrize("mode", [Live.MODE_UNSPECIFIED, Live.REFUSE])
async def test_live_is_rejected(
    youtube_harness: Harness, youtube: YouTube, mode: Live.Mode.ValueType
) -> None:
    """A live stream is not recorded unless that is requested."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("livelong"), FormatSpec(live=Live(mode=mode)))
    assert failure.value.reason == ErrorReason.MEDIA_IS_LIVE


@pytest.mark.parametrize("mode", [Live.REFUSE, Live.WAIT, Live.RECORD])
async def test_upcoming(youtube_harness: Harness, youtube: YouTube, mode: Live.Mode.ValueType) -> None:
    """The failure of an event that has not begun tells when it will."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("upcoming"), FormatSpec(live=Live(mode=mode)))
    assert failure.value.reason == ErrorReason.MEDIA_NOT_LIVE_YET
    start = datetime.fromisoformat(failure.value.metadata["startTime"])
    assert timedelta(hours=1.5) < start - datetime.now(UTC) < timedelta(hours=2.5)
    assert failure.value.retry_delay is not None
    assert failure.value.retry_delay > timedelta(hours=1.5)


async def test_time_limit(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording ends at its limit, as a file that plays, with a warning."""
    listener = FetchListener()
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, listener, record_seconds=5)
    media = result.products[0]
    assert (media.path.suffix, result.delivered.height, result.delivered.transcoded) == (".mp4", 360, False)
    assert tools.probe(media.path).duration == pytest.approx(5, abs=0.5)
    assert [w.reason for w in result.warnings] == [MediaWarning.RECORDING_CUT]
    assert not any(p.HasField("percent") for p in listener.progress_updates if p.stage == Progress.RECORDING)
    assert Progress.RECORDING in listener.stages


async def test_play_time_limit(youtube_harness: Harness, youtube: YouTube) -> None:
    """How long a live stream has been running is no play time: the limit only ends the recording."""
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, record_seconds=3, max_seconds=3)
    assert [w.reason for w in result.warnings] == [MediaWarning.RECORDING_CUT]


async def test_end_of_the_stream(youtube_harness: Harness, youtube: YouTube) -> None:
    """A live stream that ends is recorded to its end, without a warning."""
    spec = FormatSpec(live=Live(mode=Live.WAIT, from_start=True), container=FormatSpec.MKV)
    result = await youtube_harness.fetch(youtube.watch_url("live", copy=8), spec, record_seconds=60)
    assert tools.probe(result.products[0].path).duration == pytest.approx(7, abs=0.5)
    assert list(result.warnings) == []


async def test_timeout(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording ends when its attempt must."""
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, record_timeout_seconds=2)
    assert 2 < tools.probe(result.products[0].path).duration < 8
    assert [w.reason for w in result.warnings] == [MediaWarning.RECORDING_CUT]


async def test_stop(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording that is stopped ends soon, as a file that plays, with a warning."""
    listener = FetchListener()
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    fetch = asyncio.create_task(youtube_harness.fetch(youtube.watch_url("livelong"), spec, listener))
    await asyncio.wait_for(listener.recording_started.wait(), 20)
    listener.stop_recording.set()
    result = await asyncio.wait_for(fetch, 20)
    assert 1 < tools.probe(result.products[0].path).duration < 8
    assert [w.reason for w in result.warnings] == [MediaWarning.RECORDING_CUT]


async def test_stop_by_user(youtube_harness: Harness, youtube: YouTube) -> None:
    """The warning of a recording that its user stopped says so."""
    listener = FetchListener()
    listener.stop_reason = MediaWarning.RECORDING_STOPPED
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    fetch = asyncio.create_task(youtube_harness.fetch(youtube.watch_url("livelong"), spec, listener))
    await asyncio.wait_for(listener.recording_started.wait(), 20)
    listener.stop_recording.set()
    result = await asyncio.wait_for(fetch, 20)
    assert 1 < tools.probe(result.products[0].path).duration < 8
    (warning,) = result.warnings
    assert (warning.reason, "stopped by request" in warning.message) == (MediaWarning.RECORDING_STOPPED, True)


async def test_stop_far_behind_the_live_edge(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording from the start that has not reached the live edge stops where it is."""
    url, listener = youtube.watch_url("livelong", copy=7), FetchListener()
    await youtube_harness.fetch(url, FormatSpec(live=Live(mode=Live.RECORD)), record_seconds=5)
    listener.stop_recording.set()
    spec = FormatSpec(live=Live(mode=Live.RECORD, from_start=True), container=FormatSpec.MP4)
    result = await asyncio.wait_for(youtube_harness.fetch(url, spec, listener), 20)
    assert tools.probe(result.products[0].path).duration == pytest.approx(1, abs=0.5)


async def test_unreliable_site(youtube_harness: Harness, youtube: YouTube) -> None:
    """The recording continues after an outage of seconds and after a missing segment."""
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MKV)
    result = await youtube_harness.fetch(youtube.watch_url("livegap", copy=1), spec, record_seconds=7)
    assert tools.probe(result.products[0].path).duration == pytest.approx(7, abs=1.1)
    assert [w.reason for w in result.warnings] == [MediaWarning.RECORDING_CUT]


async def test_lost_recording(youtube_harness: Harness, youtube: YouTube) -> None:
    """If a stopped recording was lost, media that is no longer live is not downloaded instead."""
    listener = FetchListener()
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("plain360"), spec, listener, recording_stopped=True)
    assert failure.value.reason == ErrorReason.RECORDING_LOST
    assert not listener.recording_started.is_set()


async def test_audio_of_a_live_stream(youtube_harness: Harness, youtube: YouTube) -> None:
    """The audio alone of a live stream can be recorded."""
    audio = FormatSpec.Audio(format=FormatSpec.Audio.MP3)
    spec = FormatSpec(live=Live(mode=Live.RECORD), media_kind=FormatSpec.AUDIO, audio=audio)
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, record_seconds=3)
    assert (result.delivered.container, result.delivered.video_codec) == ("mp3", "")


async def test_size_limit(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording that exceeds the job's size limit fails."""
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("livelong"), spec, size_limit=100_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE


@pytest.fixture(scope="module")
def broadcasts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcastSite]:
    """A site with broadcasts whose video and audio come apart."""
    with running_broadcasts(tmp_path_factory.mktemp("broadcasts")) as site:
        yield site


@pytest.mark.parametrize(
    "broadcast",
    [
        pytest.param(Broadcast(), id="alike"),
        pytest.param(Broadcast(audio=Stream(1)), id="shorter audio segments"),
        pytest.param(Broadcast(audio=Stream(5)), id="longer audio segments"),
        pytest.param(Broadcast(kind="mp4"), id="fMP4"),
        pytest.param(Broadcast(audio=Stream(1), kind="mp4"), id="fMP4, shorter audio segments"),
        pytest.param(Broadcast(audio=Stream(lag=6)), id="audio published later"),
        pytest.param(Broadcast(video=Stream(lag=5), audio=Stream(1)), id="video published later"),
        pytest.param(
            Broadcast(Stream(has_dates=True), Stream(has_dates=True, first_number=700, lag=4)), id="dates"
        ),
        pytest.param(Broadcast(audio=Stream(first_number=90)), id="other numbers"),
        pytest.param(Broadcast(audio=Stream(1, missing=frozenset({14, 15}))), id="audio segments missing"),
    ],
)
async def test_separate_streams(harness: Harness, broadcasts: BroadcastSite, broadcast: Broadcast) -> None:
    """Video and audio of a broadcast begin and end together and are in step, however they are published."""
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    result = await harness.fetch(broadcasts.add(broadcast), spec, record_seconds=9)
    path = result.products[0].path
    offsets = synchronized.offsets(path)
    assert len(offsets) >= 2
    # A gap of the audio may hide one beep.
    assert sum(abs(offset) > 0.15 for offset in offsets) <= bool(broadcast.audio.missing), offsets
    assert tools.probe(path).duration == pytest.approx(9, abs=1.1)
    assert [w.reason for w in result.warnings] == [MediaWarning.RECORDING_CUT]


@pytest.mark.parametrize(
    "broadcast",
    [
        pytest.param(Broadcast(audio=Stream(silent_from=14)), id="audio falls silent"),
        pytest.param(Broadcast(audio=Stream(ends_at=16)), id="audio ends"),
        pytest.param(Broadcast(audio=Stream(silent_from=0.5)), id="no audio at all"),
    ],
)
async def test_audio_that_ends_early(
    harness: Harness, broadcasts: BroadcastSite, broadcast: Broadcast
) -> None:
    """If the audio of a broadcast fails, its video is recorded on, and a warning says so."""
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    result = await harness.fetch(broadcasts.add(broadcast), spec, record_seconds=12)
    path = result.products[0].path
    assert tools.probe(path).duration == pytest.approx(12, abs=1.1)
    assert [w.reason for w in result.warnings] == [MediaWarning.STREAMS_UNEQUAL, MediaWarning.RECORDING_CUT]


async def test_video_that_ends_early(harness: Harness, broadcasts: BroadcastSite) -> None:
    """If the video of a broadcast ends, so does the recording."""
    broadcast = Broadcast(video=Stream(ends_at=20))
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    result = await harness.fetch(broadcasts.add(broadcast), spec, record_seconds=40)
    assert tools.probe(result.products[0].path).duration == pytest.approx(12, abs=0.5)
    assert list(result.warnings) == []


async def test_stop_of_separate_streams(harness: Harness, broadcasts: BroadcastSite) -> None:
    """A stop ends video and audio at one moment, although the audio is published later."""
    listener = FetchListener()
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    url = broadcasts.add(Broadcast(audio=Stream(1, lag=4)))
    fetch = asyncio.create_task(harness.fetch(url, spec, listener))
    await asyncio.wait_for(listener.recording_started.wait(), 20)
    listener.stop_recording.set()
    result = await asyncio.wait_for(fetch, 30)
    assert [w.reason for w in result.warnings] == [MediaWarning.RECORDING_CUT]
    offsets = synchronized.offsets(result.products[0].path)
    assert offsets
    assert max(map(abs, offsets)) < 0.15
