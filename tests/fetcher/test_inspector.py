"""Whatever a file does to the one who looks into it, the fetch ends with a word about the file."""

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
from reelhaul_fetcher.media import ffmpeg
from reelhaul_fetcher.media.inspect import NotMedia, Unplayable
from reelhaul_fetcher.media.inspector_client import InspectorProcess
from reelhaul_runtime.errors import ReelhaulError


@pytest.fixture
def taster() -> Iterator[InspectorProcess]:
    """One, who is gone afterwards."""
    found = InspectorProcess()
    yield found
    found.stop()
    assert not psutil.pid_exists(found.pid)


@pytest.fixture
def patience() -> Iterator[float]:
    """Little patience, for as long as the test."""
    ffmpeg.set_idle_timeout(0.5)
    yield 0.5
    ffmpeg.set_idle_timeout(60)


def test_a_file_that_kills(taster: InspectorProcess, site: Site) -> None:
    """A taster that dies of a file is told as a fault of the file, and so is each later question."""
    film = site.media.file("/media/360.mp4")
    assert taster.inspect(film).height == 360
    os.kill(taster.pid, signal.SIGKILL)
    with pytest.raises(Unplayable, match="ended with -9"):
        taster.decode_check(film)
    with pytest.raises(NotMedia, match="ended with -9"):
        taster.inspect(film)


def test_a_file_that_holds_up(taster: InspectorProcess, site: Site, patience: float) -> None:
    """A taster that does nothing any more is killed when patience ends."""
    os.kill(taster.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(NotMedia, match="did nothing"):
        taster.inspect(site.media.file("/media/360.mp4"))
    assert patience < time.monotonic() - began < 5


def test_a_file_that_takes_over(taster: InspectorProcess, tmp_path: Path, site: Site) -> None:
    """Who takes a taster over finds no descriptor but its line, and none that lets him write."""
    taster.inspect(site.media.file("/media/360.mp4"))
    held = {os.readlink(link) for link in Path(f"/proc/{taster.pid}/fd").iterdir()}
    held -= {os.devnull}
    assert [name for name in held if not name.startswith("socket:")] == [
        str(site.media.file("/media/360.mp4"))
    ]
    assert len(held) == 2
    limits = Path(f"/proc/{taster.pid}/limits").read_text()
    assert "Max file size             0                    0" in limits


@pytest.mark.asyncio(loop_scope="module")
async def test_a_fetch_whose_taster_dies(harness: Harness, site: Site) -> None:
    """The fetch ends with a word about the file; the engine lives on, and nothing is left of the two."""
    listener = FetchListener()
    fetch = asyncio.create_task(harness.fetch(site.url("/media/360.mp4?media.rate=400000"), None, listener))
    async with asyncio.timeout(20):
        while not any(progress.downloaded_bytes for progress in listener.progress_updates):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
    (child,) = psutil.Process(harness.engine.zygote_pid).children()
    (found,) = child.children()
    found.kill()
    with pytest.raises(ReelhaulError, match="ended with -9") as failure:
        await fetch
    assert failure.value.reason == ErrorReason.VERIFICATION_FAILED
    assert not child.is_running()
    assert (await harness.fetch(site.url("/media/360.mp4"))).delivered.height == 360
    assert not psutil.Process(harness.engine.zygote_pid).children()


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{film}'\n",
    ],
)
def test_a_file_that_names_others(taster: InspectorProcess, tmp_path: Path, site: Site, text: str) -> None:
    """A list of other files is no media, whatever it calls itself: nothing else is opened for it."""
    fake = tmp_path / "fake.mp4"
    fake.write_text(text.format(film=site.media.file("/media/360.mp4")))
    with pytest.raises(NotMedia):
        taster.inspect(fake)
