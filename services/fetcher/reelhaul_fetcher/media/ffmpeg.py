"""Runs ffmpeg on open files, reads its progress, and kills it when it hangs.

Each input is a descriptor, read by the demuxer that its inspection found: a file that could also be read as a
playlist or a manifest of other files is not, and no demuxer may open anything but descriptors. See also
``confinement``.
"""

from __future__ import annotations

import functools
import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from reelhaul_fetcher.media import confinement
from reelhaul_runtime.parent_death import die_with_parent

# The beginning of every command.
_COMMAND = (
    "ffmpeg",
    "-hide_banner",
    "-nostdin",
    "-v",
    "error",
    "-y",
    "-progress",
    "pipe:1",
    "-stats_period",
    "0.25",
)
# Demuxers of pictures, by the first bytes.
_PICTURE_DEMUXERS = {
    b"\xff\xd8\xff": "jpeg_pipe",
    b"\x89PNG\r\n\x1a\n": "png_pipe",
    b"GIF8": "gif",
    b"BM": "bmp_pipe",
    b"II*\0": "tiff_pipe",
    b"MM\0*": "tiff_pipe",
    b"\xff\x0a": "jpegxl_pipe",
    b"\x00\x00\x00\x0cJXL ": "jpegxl_pipe",
}
# Of ffmpeg's objects in memory, which its messages contain.
_ADDRESS = re.compile(" @ 0x[0-9a-f]+")
_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"miaf")

# Kept of stderr, from its end: a damaged file makes ffmpeg repeat the same message a million times.
_STDERR_TAIL_BYTES = 4096
# A process that spends at least this share of the time on the CPU is working: progress lines alone cost less.
_WORKING_CPU_SHARE = 0.01
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Per process: a child carries out one request, which sets it.
_idle_timeout = 60.0


class FfmpegFailed(Exception):
    """ffmpeg failed; the text is the end of its stderr."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file, the demuxer to read it with, and options such as the range to read."""

    path: Path
    demuxer: str
    options: tuple[str, ...] = ()
    #: The demuxer of the files that this one, written by us, names by their descriptors.
    nested: str = ""

    def arguments(self, descriptor: int) -> list[str]:
        """Return the arguments for this input, opened as *descriptor*."""
        formats = f"{self.demuxer},{self.nested}" if self.nested else self.demuxer
        only = ["-f", self.demuxer, "-format_whitelist", formats, "-protocol_whitelist", "fd"]
        # Some containers have no timestamps of presentation, which others require.
        return [*self.options, "-fflags", "+genpts", *only, "-fd", str(descriptor), "-i", "fd:"]


def set_idle_timeout(seconds: float) -> None:
    """Kill every later ffmpeg of this process that does nothing for *seconds*."""
    global _idle_timeout
    _idle_timeout = seconds


def idle_timeout() -> float:
    """Return for how many seconds a media process may do nothing."""
    return _idle_timeout


def to_jpeg(picture: Path, output: Path) -> None:
    """Write *picture* to *output* as JPEG. Raises FfmpegFailed, also for what is no picture of the web."""
    with picture.open("rb") as file:
        demuxer = _find_picture_demuxer(file.read(32))
    if not demuxer:
        raise FfmpegFailed("the file is not a picture")
    run([Input(picture, demuxer)], ["-frames:v", "1", "-q:v", "3", "-update", "1"], output)


def _find_picture_demuxer(head: bytes) -> str:
    """Return the demuxer for the picture that begins with *head*; empty if it is none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        is_animated = head[12:16] == b"VP8X" and len(head) > 20 and head[20] & 2
        return "webp_anim" if is_animated else "webp_pipe"
    if head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS:
        return "mov"
    return next((name for magic, name in _PICTURE_DEMUXERS.items() if head.startswith(magic)), "")


def decodes(codec: str) -> bool:
    """Return whether *codec* can be decoded. ffmpeg's own "av1" decoder needs a graphics card."""
    return codec != "av1" or any(name in _decoders() for name in ("libdav1d", "libaom-av1"))


@functools.cache
def _decoders() -> str:
    return subprocess.run(
        ["ffmpeg", "-hide_banner", "-decoders"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
        env=confinement.environment(),
    ).stdout


def run(
    inputs: Sequence[Input],
    arguments: Sequence[str],
    output: Path,
    duration: float = 0.0,
    on_progress: Callable[[float], None] | None = None,
    *,
    attachments: Sequence[Path] = (),
    inherited: Sequence[int] = (),
) -> None:
    """Convert *inputs* to *output* as *arguments* say; report the done share of *duration* seconds.

    *attachments* are files that *arguments* name, *inherited* descriptors that inputs name. Raises
    FfmpegFailed, also for an ffmpeg that hangs.
    """

    def on_line(line: str) -> None:
        key, _, value = line.strip().partition("=")
        if key == "out_time_us" and value.isdigit() and duration > 0 and on_progress is not None:
            on_progress(int(value) / 1e6 / duration)

    command, descriptors = list(_COMMAND), list(inherited)
    output.write_bytes(b"")
    with ExitStack() as stack:
        # Each input has a position of its own, also if two are the same file.
        for source in inputs:
            descriptor = stack.enter_context(source.path.open("rb")).fileno()
            descriptors.append(descriptor)
            command += source.arguments(descriptor)
        enter = stack.enter_context(
            confinement.open_confinement(command[0], readable=attachments, writable=[output])
        )
        # Relative, so that no error message tells where the fetcher keeps its files.
        command += [*arguments, f"file:{output.name}"]
        try:
            run_process(command, on_line, folder=output.parent, descriptors=descriptors, preexec=enter)
        except subprocess.SubprocessError as error:
            raise FfmpegFailed("ffmpeg could not be confined") from error


def run_process(
    command: Sequence[str],
    on_line: Callable[[str], None],
    *,
    folder: Path | None = None,
    descriptors: Sequence[int] = (),
    preexec: Callable[[], None] = die_with_parent,
) -> None:
    """Run *command* in *folder* until it ends; pass each line of its stdout to *on_line*.

    The process inherits *descriptors* and calls *preexec* first. Raises FfmpegFailed.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=confinement.environment(),
        pass_fds=descriptors,
        preexec_fn=preexec,
    ) as process:
        try:
            stderr = _read_output(process, on_line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise FfmpegFailed(
            _ADDRESS.sub("", stderr).strip()[-300:] or f"ffmpeg exited with {process.returncode}"
        )


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
