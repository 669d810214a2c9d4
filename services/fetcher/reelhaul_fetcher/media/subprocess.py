"""An ffmpeg at work: heard while it runs, and ended where it does nothing any more."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from reelhaul_runtime.parent_death import die_with_parent

# Its last words; a damaged file makes it say the same a million times.
_WORDS = 4096
# Of the time, so much spent on the CPU is work: even its progress lines cost less.
_WORKING_SHARE = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")

# Of this process: a child carries out one order, which says.
_patience = 60.0


class FfmpegFailed(Exception):
    """ffmpeg ended badly; the text is the last that it said."""


def set_idle_timeout(seconds: float) -> None:
    """From now on, an ffmpeg of this process may do nothing for *seconds*."""
    global _patience
    _patience = seconds


def patience() -> float:
    """For how many seconds a process at work may do nothing."""
    return _patience


def run(command: list[str], hear: Callable[[str], None]) -> None:
    """Run *command* to its end; *hear* is told each line of its output. Raises FfmpegFailed."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=die_with_parent,
    ) as process:
        try:
            said = _followed(process, hear)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise FfmpegFailed(said.strip()[-300:] or f"ffmpeg ended with {process.returncode}")


def _followed(process: subprocess.Popen[bytes], hear: Callable[[str], None]) -> str:
    """Its last words, when it has closed both its mouths: read side by side, or it would wait for us."""
    assert process.stdout is not None
    assert process.stderr is not None
    watch, begun, said = Watch(process.pid), b"", b""
    with selectors.DefaultSelector() as mouths:
        for mouth in (process.stdout, process.stderr):
            mouths.register(mouth, selectors.EVENT_READ)
        while mouths.get_map():
            for key, _ in mouths.select(timeout=_patience / 6):
                piece = os.read(key.fd, 1 << 16)
                if not piece:
                    mouths.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    *lines, begun = (begun + piece).split(b"\n")
                    for line in lines:
                        hear(line.decode(errors="replace"))
                else:
                    said = (said + piece)[-_WORDS:]
            watch.look()
    return said.decode(errors="replace")


class Watch:
    """Ends the wait for a process that has stopped working, whatever it waits for."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._since, self._worked = time.monotonic(), 0.0

    def look(self) -> None:
        """Raise FfmpegFailed where nothing was done for as long as there is patience."""
        now = time.monotonic()
        idle = now - self._since
        if idle < _patience / 6:
            return
        worked = self._seconds()
        if worked - self._worked >= _WORKING_SHARE * idle:
            self._since, self._worked = now, worked
        elif idle > _patience:
            raise FfmpegFailed(f"ffmpeg did nothing for {idle:.0f} s")

    def _seconds(self) -> float:
        """CPU time that it has spent."""
        try:
            fields = self._stat.read_text().rpartition(")")[2].split()
        except OSError:
            return self._worked
        return (int(fields[11]) + int(fields[12])) / _TICKS
