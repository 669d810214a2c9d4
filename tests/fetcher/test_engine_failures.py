"""What sites do wrong, as reasons; and what is stopped, stopped whole."""

from __future__ import annotations

import asyncio
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


async def _fails(harness: Harness, url: str, listener: FetchListener | None = None) -> ReelhaulError:
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
    """Each mishap of a site has a reason of its own, from which the retry class follows."""
    failure = await _fails(harness, site.url(path))
    assert ErrorReason.Name(reason) == ErrorReason.Name(failure.reason), failure.text


async def test_retry_after_is_handed_on(harness: Harness, site: Site) -> None:
    """How long a site asks to wait is told with the failure, and its status counted."""
    listener = FetchListener()
    failure = await _fails(harness, site.url("/watch/jsonld?fail=429&retry_after=90"), listener)
    assert failure.retry_delay is not None
    assert failure.retry_delay.total_seconds() == 90
    assert listener.status_counts.http_statuses == {429: 1}


async def test_nothing_past_the_guard(harness: Harness, site: Site) -> None:
    """A page that leads to another loopback address is refused as forbidden."""
    for path in ("/redirect/1?to=http://127.0.0.1:9/", "/hls/master.m3u8?media_host=http://127.0.0.1:9"):
        failure = await _fails(harness, site.url(path))
        assert failure.reason == ErrorReason.URL_FORBIDDEN, failure.text


async def test_a_refused_connection(harness: Harness) -> None:
    """A host that does not answer is the site's failure, and may be tried again."""
    failure = await _fails(harness, "http://127.0.0.2:1/")
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
async def test_cancel_leaves_nothing(
    harness: Harness, site: Site, path: str, stage: Progress.Stage.ValueType
) -> None:
    """Cancelled in any stage, a fetch is gone within two seconds: no process of it is left."""
    listener = FetchListener()
    fetch = asyncio.create_task(harness.fetch(site.url(path), FormatSpec(), listener))
    await _until(lambda: any(p.stage == stage for p in listener.progress_updates))
    parent = harness.engine.zygote_pid
    assert _children(parent)
    began = time.monotonic()
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert time.monotonic() - began < 2
    assert not _children(parent)


async def test_cancel_while_transcoding(harness: Harness, site: Site) -> None:
    """ffmpeg dies with its fetch."""
    listener = FetchListener()
    spec = FormatSpec(container=FormatSpec.WEBM)
    fetch = asyncio.create_task(harness.fetch(site.url("/media/1080.mp4"), spec, listener))
    await _until(lambda: any(p.stage == Progress.POSTPROCESSING for p in listener.progress_updates))
    await _until(lambda: "ffmpeg" in _names())
    fetch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    assert not _children(harness.engine.zygote_pid)
    assert "ffmpeg" not in _names()


async def test_a_killed_child_is_a_failure_at_once(harness: Harness, site: Site) -> None:
    """A child that dies is WORKER_LOST, never a hang."""
    listener = FetchListener()
    fetch = asyncio.create_task(harness.fetch(site.url("/watch/video?media.rate=50000"), None, listener))
    await _until(lambda: any(p.stage == Progress.DOWNLOADING for p in listener.progress_updates))
    os.kill(_children(harness.engine.zygote_pid)[0], signal.SIGKILL)
    with pytest.raises(ReelhaulError) as failure:
        await fetch
    assert failure.value.reason == ErrorReason.WORKER_LOST


async def test_a_killed_parent_comes_back(harness: Harness, site: Site) -> None:
    """The parent killed, its fetches fail as retryable, their processes die, and a new parent serves."""
    listener = FetchListener()
    fetch = asyncio.create_task(harness.fetch(site.url("/watch/video?media.rate=50000"), None, listener))
    await _until(lambda: any(p.stage == Progress.DOWNLOADING for p in listener.progress_updates))
    parent = harness.engine.zygote_pid
    child = _children(parent)[0]
    os.kill(parent, signal.SIGKILL)
    with pytest.raises(ReelhaulError) as failure:
        await fetch
    assert (failure.value.reason, failure.value.retryable) == (ErrorReason.WORKER_LOST, True)
    await _until(lambda: not Path(f"/proc/{child}").exists())
    report = await harness.fetch(site.url("/media/360.mp4"))
    assert report.delivered.height == 360
    assert parent != harness.engine.zygote_pid


async def _until(true: Callable[[], bool], seconds: float = 15) -> None:
    """Return when the world outside, which sends no event, is so."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - processes of others set no event
            await asyncio.sleep(0.02)


def _children(pid: int) -> list[int]:
    """All processes below *pid*, zombies too."""
    below = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return [*below, *(deeper for child in below for deeper in _children(child))]


def _names() -> set[str]:
    """Names of our own processes: those that descend from this one."""
    names = set()
    for pid in _children(os.getpid()):
        try:
            names.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue
    return names
