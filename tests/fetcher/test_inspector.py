"""Inspector process: whatever a file does to it, the fetch fails with an error about the file."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.site import Site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Progress
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.media.inspection import NotMedia, Unplayable
from reelhaul_fetcher.media.inspector_client import InspectorProcess
from reelhaul_runtime.errors import ReelhaulError


@pytest.fixture
def inspector() -> Iterator[InspectorProcess]:
    """An inspector, which must be gone afterwards."""
    process = InspectorProcess()
    yield process
    process.stop()
    assert not psutil.pid_exists(process.pid)


@pytest.fixture
def idle_timeout() -> Iterator[float]:
    """A short idle timeout."""
    ffmpeg.set_idle_timeout(0.5)
    yield 0.5
    ffmpeg.set_idle_timeout(60)


def test_file_that_kills_the_inspector(inspector: InspectorProcess, site: Site) -> None:
    """If the inspector dies of a file, that call and every later one fails as an error of the file."""
    file = site.media.file("/media/360.mp4")
    assert inspector.inspect(file).height == 360
    os.kill(inspector.pid, signal.SIGKILL)
    with pytest.raises(Unplayable, match="ended with -9"):
        inspector.decode_check(file)
    with pytest.raises(NotMedia, match="ended with -9"):
        inspector.inspect(file)


def test_file_that_hangs_the_inspector(inspector: InspectorProcess, site: Site, idle_timeout: float) -> None:
    """An inspector that hangs is killed after the idle timeout."""
    os.kill(inspector.pid, signal.SIGSTOP)
    started_at = time.monotonic()
    with pytest.raises(NotMedia, match="did nothing"):
        inspector.inspect(site.media.file("/media/360.mp4"))
    assert idle_timeout < time.monotonic() - started_at < 30


def test_compromised_inspector(inspector: InspectorProcess, tmp_path: Path, site: Site) -> None:
    """The inspector has no descriptors but its channel and the file, and can write to no file."""
    inspector.inspect(site.media.file("/media/360.mp4"))
    descriptors = {os.readlink(link) for link in Path(f"/proc/{inspector.pid}/fd").iterdir()}
    descriptors -= {os.devnull}
    assert [name for name in descriptors if not name.startswith("socket:")] == [
        str(site.media.file("/media/360.mp4"))
    ]
    assert len(descriptors) == 2
    limits = Path(f"/proc/{inspector.pid}/limits").read_text()
    assert "Max file size             0                    0" in limits


class _DownloadListener(FetchListener):
    """Sets an event when the first bytes have been downloaded."""

    def __init__(self) -> None:
        super().__init__()
        self.downloading = asyncio.Event()

    def on_progress(self, progress: Progress) -> None:
        super().on_progress(progress)
        if progress.downloaded_bytes:
            self.downloading.set()


@pytest.mark.asyncio(loop_scope="module")
async def test_fetch_whose_inspector_dies(harness: Harness, site: Site) -> None:
    """The fetch fails with an error about the file; the engine goes on, and no process is left behind."""
    listener = _DownloadListener()
    fetch = asyncio.create_task(harness.fetch(site.url("/media/360.mp4?media.rate=400000"), None, listener))
    async with asyncio.timeout(20):
        await listener.downloading.wait()
    (child,) = psutil.Process(harness.engine.zygote_pid).children()
    (inspector,) = child.children()
    inspector.kill()
    with pytest.raises(ReelhaulError, match="ended with -9") as failure:
        await fetch
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED
    assert not child.is_running()
    assert (await harness.fetch(site.url("/media/360.mp4"))).delivered.height == 360
    assert not psutil.Process(harness.engine.zygote_pid).children()


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{file}'\n",
    ],
)
def test_file_that_refers_to_others(
    inspector: InspectorProcess, tmp_path: Path, site: Site, text: str
) -> None:
    """A playlist named .mp4 is not media; the file that it refers to is not opened."""
    playlist = tmp_path / "fake.mp4"
    playlist.write_text(text.format(file=site.media.file("/media/360.mp4")))
    with pytest.raises(NotMedia):
        inspector.inspect(playlist)
