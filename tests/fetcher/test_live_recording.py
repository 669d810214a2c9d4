"""What is live or announced: refused unless asked for, recorded to a file that plays."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites import tools
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

Live = FormatSpec.Live


@pytest.mark.parametrize("mode", [Live.MODE_UNSPECIFIED, Live.REFUSE])
async def test_live_is_refused(youtube_harness: Harness, youtube: YouTube, mode: Live.Mode.ValueType) -> None:
    """Unless asked for, what is live is not recorded."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("livelong"), FormatSpec(live=Live(mode=mode)))
    assert failure.value.reason == ErrorReason.MEDIA_IS_LIVE


@pytest.mark.parametrize("mode", [Live.REFUSE, Live.WAIT, Live.RECORD])
async def test_announced(youtube_harness: Harness, youtube: YouTube, mode: Live.Mode.ValueType) -> None:
    """Of an event that has not begun it is told when it will."""
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("upcoming"), FormatSpec(live=Live(mode=mode)))
    assert failure.value.reason == ErrorReason.MEDIA_NOT_LIVE_YET
    told = datetime.fromisoformat(failure.value.metadata["startTime"])
    assert timedelta(hours=1.5) < told - datetime.now(UTC) < timedelta(hours=2.5)
    assert failure.value.retry_delay is not None
    assert failure.value.retry_delay > timedelta(hours=1.5)


async def test_recording_to_its_limit(youtube_harness: Harness, youtube: YouTube) -> None:
    """At its time limit a recording is stopped, and is a file that plays, with a warning."""
    listener = FetchListener()
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, listener, record_seconds=5)
    media = result.products[0]
    assert (media.path.suffix, result.delivered.height, result.delivered.transcoded) == (".mp4", 360, False)
    assert tools.probe(media.path).duration == pytest.approx(5, abs=0.5)
    assert [w.reason for w in result.warnings] == [Warned.RECORDING_CUT]
    assert not any(p.HasField("percent") for p in listener.progress_updates if p.stage == Progress.RECORDING)
    assert Progress.RECORDING in {p.stage for p in listener.progress_updates}


async def test_recording_to_the_longest_play_time(youtube_harness: Harness, youtube: YouTube) -> None:
    """How long a broadcast has been on air is no play time: the limit ends the recording, no more."""
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, record_seconds=3, max_seconds=3)
    assert [w.reason for w in result.warnings] == [Warned.RECORDING_CUT]


async def test_recording_to_the_end(youtube_harness: Harness, youtube: YouTube) -> None:
    """A broadcast that ends is recorded to its end, without a warning."""
    spec = FormatSpec(live=Live(mode=Live.WAIT, from_start=True), container=FormatSpec.MKV)
    result = await youtube_harness.fetch(youtube.watch_url("live", copy=8), spec, record_seconds=60)
    assert tools.probe(result.products[0].path).duration == pytest.approx(7, abs=0.5)
    assert list(result.warnings) == []


async def test_recording_within_the_attempt(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording ends while there is time left to keep it."""
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, record_timeout_seconds=2)
    assert 2 < tools.probe(result.products[0].path).duration < 8
    assert [w.reason for w in result.warnings] == [Warned.RECORDING_CUT]


async def test_recording_until_it_is_enough(youtube_harness: Harness, youtube: YouTube) -> None:
    """Told that it is enough, a recording ends soon, and what it has is a file that plays, with a warning."""
    listener = FetchListener()
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    fetch = asyncio.create_task(youtube_harness.fetch(youtube.watch_url("livelong"), spec, listener))
    await asyncio.wait_for(listener.recording_started.wait(), 20)
    listener.stop_recording.set()
    result = await asyncio.wait_for(fetch, 20)
    assert 1 < tools.probe(result.products[0].path).duration < 8
    assert [w.reason for w in result.warnings] == [Warned.RECORDING_CUT]


async def test_recording_until_its_user_has_enough(youtube_harness: Harness, youtube: YouTube) -> None:
    """Ended by its user, a recording says that it was by request."""
    listener = FetchListener()
    listener.stop_reason = Warned.RECORDING_STOPPED
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MP4)
    fetch = asyncio.create_task(youtube_harness.fetch(youtube.watch_url("livelong"), spec, listener))
    await asyncio.wait_for(listener.recording_started.wait(), 20)
    listener.stop_recording.set()
    result = await asyncio.wait_for(fetch, 20)
    assert 1 < tools.probe(result.products[0].path).duration < 8
    (warning,) = result.warnings
    assert (warning.reason, "stopped by request" in warning.message) == (Warned.RECORDING_STOPPED, True)


async def test_far_behind_the_edge(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording from the beginning that has not caught up ends where it is: nobody waits for the rest."""
    url, listener = youtube.watch_url("livelong", copy=7), FetchListener()
    await youtube_harness.fetch(url, FormatSpec(live=Live(mode=Live.RECORD)), record_seconds=5)
    listener.stop_recording.set()
    spec = FormatSpec(live=Live(mode=Live.RECORD, from_start=True), container=FormatSpec.MP4)
    result = await asyncio.wait_for(youtube_harness.fetch(url, spec, listener), 20)
    assert tools.probe(result.products[0].path).duration == pytest.approx(1, abs=0.5)


async def test_a_site_that_falters(youtube_harness: Harness, youtube: YouTube) -> None:
    """A broadcast that is away for seconds, or lacks a segment, is recorded on: what there is is kept."""
    spec = FormatSpec(live=Live(mode=Live.RECORD), container=FormatSpec.MKV)
    result = await youtube_harness.fetch(youtube.watch_url("livegap", copy=1), spec, record_seconds=7)
    assert tools.probe(result.products[0].path).duration == pytest.approx(7, abs=1.1)
    assert [w.reason for w in result.warnings] == [Warned.RECORDING_CUT]


async def test_a_recording_that_was_lost(youtube_harness: Harness, youtube: YouTube) -> None:
    """Ended by its user and lost with its worker, what is not on air any more is not fetched instead."""
    listener = FetchListener()
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("plain360"), spec, listener, recording_stopped=True)
    assert failure.value.reason == ErrorReason.RECORDING_LOST
    assert not listener.recording_started.is_set()


async def test_sound_of_a_broadcast(youtube_harness: Harness, youtube: YouTube) -> None:
    """Of a broadcast the sound alone can be kept."""
    audio = FormatSpec.Audio(format=FormatSpec.Audio.MP3)
    spec = FormatSpec(live=Live(mode=Live.RECORD), media_kind=FormatSpec.AUDIO, audio=audio)
    result = await youtube_harness.fetch(youtube.watch_url("livelong"), spec, record_seconds=3)
    assert (result.delivered.container, result.delivered.video_codec) == ("mp3", "")


async def test_recording_above_its_size(youtube_harness: Harness, youtube: YouTube) -> None:
    """A recording that grows past the job's limit is too large."""
    spec = FormatSpec(live=Live(mode=Live.RECORD))
    with pytest.raises(ReelhaulError) as failure:
        await youtube_harness.fetch(youtube.watch_url("livelong"), spec, size_limit=100_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE
