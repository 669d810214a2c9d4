"""ffmpeg at work: however it behaves, it comes to an end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reelhaul_fetcher.media import ffmpeg


@pytest.fixture
def patience() -> Iterator[float]:
    """Little patience, for as long as the test."""
    ffmpeg.set_idle_timeout(0.5)
    yield 0.5
    ffmpeg.set_idle_timeout(60)


def test_one_that_is_stopped_ends(patience: float, tmp_path: Path) -> None:
    """A process that does nothing for as long as there is patience is killed, and that is told."""
    told: list[str] = []
    began = time.monotonic()
    with pytest.raises(ffmpeg.FfmpegFailed, match="did nothing"):
        ffmpeg.run_process(["sh", "-c", "echo $$; kill -STOP $$"], told.append)
    assert patience < time.monotonic() - began < 5
    assert not psutil.pid_exists(int(told[0]))


def test_one_that_works_in_silence_goes_on(patience: float) -> None:
    """A process that says nothing but works is left alone, for longer than the patience."""
    # Twice as patient as with the idle: on a busy machine it may be a while before it gets to work.
    ffmpeg.set_idle_timeout(2 * patience)
    busy = "import time; end = time.process_time() + 2.5\nwhile time.process_time() < end: pass"
    ffmpeg.run_process([sys.executable, "-c", busy], lambda _: None)


def test_a_torrent_of_complaints_blocks_nobody(patience: float) -> None:
    """A damaged file makes ffmpeg say more than a pipe holds, while it also tells its progress."""
    told: list[str] = []
    complain = "yes 'Invalid data' | head -n 100000 >&2; echo out_time_us=5; echo the end >&2; exit 3"
    with pytest.raises(ffmpeg.FfmpegFailed, match=r"the end$"):
        ffmpeg.run_process(["sh", "-c", complain], told.append)
    assert told == ["out_time_us=5"]
