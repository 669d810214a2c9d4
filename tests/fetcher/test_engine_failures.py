"""Failures of sites have reasons, and a download that is stopped leaves no process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.site import Site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, Progress
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _failure(harness: Harness, url: str, listener: FetchListener | None = None) -> ReelhaulError:
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(url, None, listener)
    return failure.value


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/watch/nothing", ErrorReason.SITE_UNSUPPORTED),
        ("/nowhere", ErrorReason.MEDIA_NOT_FOUND),
        ("/watch/jsonld?fail=403", ErrorReason.MEDIA_FORBIDDEN),
        ("/watch/jsonld?fail=401", ErrorReason.MEDIA_LOGIN_REQUIRED),
        ("/watch/jsonld?fail=451", ErrorReason.MEDIA_FORBIDDEN),
        ("/watch/jsonld?fail=429&retry_after=90", ErrorReason.UPSTREAM_THROTTLED),
        ("/watch/jsonld?fail=503", ErrorReason.UPSTREAM_UNAVAILABLE),
        ("/watch/jsonld?media.fail=404", ErrorReason.MEDIA_NOT_FOUND),
        ("/watch/jsonld?media.fail=410", ErrorReason.MEDIA_NOT_FOUND),
        ("/watch/jsonld?media.length=-5000", ErrorReason.VERIFICATION_FAILED),
        ("/redirect/loop", ErrorReason.UPSTREAM_UNAVAILABLE),
    ],
)
async def test_reasons(harness: Harness, site: Site, path: str, reason: ErrorReason.ValueType) -> None:
    """Each failure of a site has its own reason."""
    failure = await _failure(harness, site.url(path))
    assert ErrorReason.Name(reason) == ErrorReason.Name(failure.reason), failure.text


async def test_engine_logs(harness: Harness, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Messages of yt-dlp are logged, and of a failure its type and stack, without the guard's secret."""
    with caplog.at_level(logging.DEBUG, logger="reelhaul_fetcher.ytdlp"):
        await _failure(harness, site.url("/watch/jsonld?fail=503"))
    lines = [vars(record) for record in caplog.records if record.name == "reelhaul_fetcher.ytdlp"]
    assert any("Downloading webpage" in line["message"] for line in lines)
    failed = next(line for line in lines if line["message"] == "the engine's request failed")
    assert failed["exception"]["type"] == "DownloadError"
    assert "Traceback" in failed["exception"]["stack"]
    assert {line["levelname"] for line in lines} <= {"DEBUG", "INFO"}


async def test_retry_after(harness: Harness, site: Site) -> None:
    """The failure has the delay that the site asks for, and the status is counted."""
    listener = FetchListener()
    failure = await _failure(harness, site.url("/watch/jsonld?fail=429&retry_after=90"), listener)
    assert failure.retry_delay is not None
    assert failure.retry_delay.total_seconds() == 90
    assert listener.status_counts.http_statuses == {429: 1}


async def test_guard_refuses_loopback(harness: Harness, site: Site) -> None:
    """A redirect or a segment at another loopback address is URL_FORBIDDEN."""
    for path in ("/redirect/1?to=http://127.0.0.1:9/", "/hls/master.m3u8?media_host=http://127.0.0.1:9"):
        failure = await _failure(harness, site.url(path))
        assert failure.reason == ErrorReason.URL_FORBIDDEN, failure.text


async def test_refused_connection(harness: Harness) -> None:
    """A refused connection is the site's failure, and can be retried."""
    failure = await _failure(harness, "http://127.0.0.2:1/")
    assert (failure.reason, failure.retryable) == (ErrorReason.UPSTREAM_UNAVAILABLE, True)


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("/watch/jsonld?hang=1", Progress.PROBING),
        ("/watch/video?media.rate=50000", Progress.DOWNLOADING),
        ("/watch/video?media.rate=1", Progress.DOWNLOADING),
        ("/hls/master.m3u8?media.rate=50000", Progress.DOWNLOADING),
    ],
)
async def test_cancel(harness: Harness, site: Site, path: str, stage: Progress.Stage.ValueType) -> None:
    """A download that is cancelled, in any stage, leaves no process after two seconds."""
    listener = FetchListener()
    fetch = asyncio.create_task(harness.fetch(site.url(path), FormatSpec(), listener))
    await _wait_for(lambda: any(p.stage == stage for p in listener.progress_updates))
    zygote = harness.engine.zygote_pid
    assert _descendants(zygote)
    started = time.monotonic()
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert time.monotonic() - started < 2
    assert not _descendants(zygote)


async def test_cancel_while_transcoding(harness: Harness, site: Site) -> None:
    """Cancelling a download kills its ffmpeg."""
    listener = FetchListener()
    spec = FormatSpec(container=FormatSpec.WEBM)
    fetch = asyncio.create_task(harness.fetch(site.url("/media/1080.mp4"), spec, listener))
    await _wait_for(lambda: any(p.stage == Progress.POSTPROCESSING for p in listener.progress_updates))
    await _wait_for(lambda: "ffmpeg" in _process_names())
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert not _descendants(harness.engine.zygote_pid)
    assert "ffmpeg" not in _process_names()


async def test_killed_child(harness: Harness, site: Site) -> None:
    """If the child is killed, the download fails at once with WORKER_LOST."""
    listener = FetchListener()
    fetch = asyncio.create_task(harness.fetch(site.url("/watch/video?media.rate=50000"), None, listener))
    await _wait_for(lambda: any(p.stage == Progress.DOWNLOADING for p in listener.progress_updates))
    os.kill(_descendants(harness.engine.zygote_pid)[0], signal.SIGKILL)
    with pytest.raises(ReelhaulError) as failure:
        await fetch
    assert failure.value.reason == ErrorReason.WORKER_LOST


async def test_killed_zygote(harness: Harness, site: Site) -> None:
    """If the zygote is killed, its downloads fail as retryable, its children die, and a new one serves."""
    listener = FetchListener()
    fetch = asyncio.create_task(harness.fetch(site.url("/watch/video?media.rate=50000"), None, listener))
    await _wait_for(lambda: any(p.stage == Progress.DOWNLOADING for p in listener.progress_updates))
    zygote = harness.engine.zygote_pid
    child = _descendants(zygote)[0]
    os.kill(zygote, signal.SIGKILL)
    with pytest.raises(ReelhaulError) as failure:
        await fetch
    assert (failure.value.reason, failure.value.retryable) == (ErrorReason.WORKER_LOST, True)
    await _wait_for(lambda: not Path(f"/proc/{child}").exists())
    result = await harness.fetch(site.url("/media/360.mp4"))
    assert result.delivered.height == 360
    assert zygote != harness.engine.zygote_pid


async def _wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Return when *condition* is true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    """Return the descendants of *pid*, zombies included."""
    children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return [*children, *(descendant for child in children for descendant in _descendants(child))]


def _process_names() -> set[str]:
    """Return the names of the processes that descend from this one."""
    names = set()
    for pid in _descendants(os.getpid()):
        try:
            names.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue
    return names
