"""ffmpeg processes: they end, whatever they do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from reelhaul_fetcher.media import ffmpeg


@pytest.fixture
def idle_timeout() -> Iterator[float]:
    """A short idle timeout."""
    ffmpeg.set_idle_timeout(0.5)
    yield 0.5
    ffmpeg.set_idle_timeout(60)


def test_stopped_process(idle_timeout: float, tmp_path: Path) -> None:
    """A process that does nothing for the idle timeout is killed, and the error says so."""
    lines: list[str] = []
    started_at = time.monotonic()
    with pytest.raises(ffmpeg.FfmpegFailed, match="did nothing"):
        ffmpeg.run_process(["sh", "-c", "echo $$; kill -STOP $$"], lines.append)
    assert idle_timeout < time.monotonic() - started_at < 30
    assert not psutil.pid_exists(int(lines[0]))


def test_silent_working_process(idle_timeout: float) -> None:
    """A process that prints nothing but uses the CPU may run for longer than the idle timeout."""
    # Twice the timeout of the other tests: on a busy machine a process may not get the CPU for a while.
    ffmpeg.set_idle_timeout(2 * idle_timeout)
    busy = "import time; end = time.process_time() + 2.5\nwhile time.process_time() < end: pass"
    ffmpeg.run_process([sys.executable, "-c", busy], lambda _: None)


def test_more_stderr_than_a_pipe_holds(idle_timeout: float) -> None:
    """A flood of messages on stderr blocks neither the process nor its progress lines."""
    lines: list[str] = []
    script = "yes 'Invalid data' | head -n 100000 >&2; echo out_time_us=5; echo the end >&2; exit 3"
    with pytest.raises(ffmpeg.FfmpegFailed, match=r"the end$"):
        ffmpeg.run_process(["sh", "-c", script], lines.append)
    assert lines == ["out_time_us=5"]
