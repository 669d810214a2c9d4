"""Runs ffmpeg on local files, reads its progress, and kills it when it hangs."""

from __future__ import annotations

import functools
import os
import selectors
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from reelhaul_runtime.parent_death import die_with_parent

#: ffmpeg reads local files and nothing else, whatever the file says.
LOCAL_ONLY = ("-protocol_whitelist", "file,pipe,crypto,data")
#: The beginning of every command.
QUIET = ("ffmpeg", "-hide_banner", "-nostdin", "-v", "error")

# Kept of stderr, from its end: a damaged file makes ffmpeg repeat the same message a million times.
_STDERR_TAIL_BYTES = 4096
# A process that spends at least this share of the time on the CPU is working: progress lines alone cost less.
_WORKING_CPU_SHARE = 0.01
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Per process: a child carries out one request, which sets it.
_idle_timeout = 60.0


class FfmpegFailed(Exception):
    """ffmpeg failed; the text is the end of its stderr."""


def set_idle_timeout(seconds: float) -> None:
    """Kill every later ffmpeg of this process that does nothing for *seconds*."""
    global _idle_timeout
    _idle_timeout = seconds


def idle_timeout() -> float:
    """Return for how many seconds a media process may do nothing."""
    return _idle_timeout


def to_jpeg(picture: Path, output: Path) -> None:
    """Write *picture* to *output* as JPEG. Raises FfmpegFailed."""
    run([*QUIET, "-y", *LOCAL_ONLY, "-i", str(picture), "-frames:v", "1", "-q:v", "3", str(output)])


def decodes(codec: str) -> bool:
    """Return whether *codec* can be decoded. ffmpeg's own "av1" decoder needs a graphics card."""
    return codec != "av1" or any(name in _decoders() for name in ("libdav1d", "libaom-av1"))


@functools.cache
def _decoders() -> str:
    return subprocess.run(
        ["ffmpeg", "-hide_banner", "-decoders"], capture_output=True, text=True, check=False, timeout=10
    ).stdout


def run(
    command: list[str], duration: float = 0.0, on_progress: Callable[[float], None] | None = None
) -> None:
    """Run *command* until it ends; report the done share of *duration* seconds to *on_progress*.

    Raises FfmpegFailed, also for an ffmpeg that hangs.
    """

    def on_line(line: str) -> None:
        key, _, value = line.strip().partition("=")
        if key == "out_time_us" and value.isdigit() and duration > 0 and on_progress is not None:
            on_progress(int(value) / 1e6 / duration)

    run_process(command, on_line)


def run_process(command: list[str], on_line: Callable[[str], None]) -> None:
    """Run *command* until it ends; pass each line of its stdout to *on_line*. Raises FfmpegFailed."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=die_with_parent,
    ) as process:
        try:
            stderr = _read_output(process, on_line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise FfmpegFailed(stderr.strip()[-300:] or f"ffmpeg exited with {process.returncode}")


def _read_output(process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> str:
    """Return the end of stderr once both pipes are closed.

    Both are read side by side: a full pipe would block the process.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    watchdog, partial_line, stderr = IdleWatchdog(process.pid), b"", b""
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(timeout=_idle_timeout / 6):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    *lines, partial_line = (partial_line + data).split(b"\n")
                    for line in lines:
                        on_line(line.decode(errors="replace"))
                else:
                    stderr = (stderr + data)[-_STDERR_TAIL_BYTES:]
            watchdog.check()
    return stderr.decode(errors="replace")


class IdleWatchdog:
    """Detects that a process has stopped working, by its CPU time."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._since, self._cpu_seconds = time.monotonic(), 0.0

    def check(self) -> None:
        """Raise FfmpegFailed if the process did nothing for the idle timeout."""
        now = time.monotonic()
        idle = now - self._since
        if idle < _idle_timeout / 6:
            return
        cpu_seconds = self._read_cpu_seconds()
        if cpu_seconds - self._cpu_seconds >= _WORKING_CPU_SHARE * idle:
            self._since, self._cpu_seconds = now, cpu_seconds
        elif idle > _idle_timeout:
            raise FfmpegFailed(f"ffmpeg did nothing for {idle:.0f} s")

    def _read_cpu_seconds(self) -> float:
        try:
            fields = self._stat.read_text().rpartition(")")[2].split()
        except OSError:
            return self._cpu_seconds
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
