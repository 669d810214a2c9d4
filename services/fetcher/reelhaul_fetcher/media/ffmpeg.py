"""ffmpeg on local files: run it, read pictures, try whether a file plays."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

from reelhaul_fetcher.media import running
from reelhaul_fetcher.media.ffprobe import LOCAL_ONLY

#: How every command of ours begins.
QUIET = ("ffmpeg", "-hide_banner", "-nostdin", "-v", "error")
# Files of so many seconds are tried as a whole: to begin twice costs more.
_SHORT_SECONDS = 3.0


def to_jpeg(picture: Path, output: Path) -> None:
    """Write *picture* as JPEG. Raises FfmpegFailed."""
    run([*QUIET, "-y", *LOCAL_ONLY, "-i", str(picture), "-frames:v", "1", "-q:v", "3", str(output)])


def try_out(path: Path, duration: float, video_codec: str = "") -> None:
    """Decode the first and the last second of *path*. Raises FfmpegFailed where they do not play.

    Of a picture in a codec that this ffmpeg cannot decode the packets are only read.
    """
    picture = () if decodes(video_codec) else ("-c:v", "copy")
    if duration <= _SHORT_SECONDS:
        if not duration / 2 <= _played(path, picture) > 0:
            raise running.FfmpegFailed("less comes of it than it says")
        return
    if not _played(path, picture, "-t", "1"):
        raise running.FfmpegFailed("nothing comes of it")
    # From the end: a file cut short keeps a good header, and ffmpeg finds no fault with that.
    # Subtitles may go on a little longer than what they are about.
    ends = (duration - 1, duration - max(3.0, 0.03 * duration))
    if not any(_played(path, picture, "-ss", f"{max(0.0, start):.3f}", "-t", "1") for start in ends):
        raise running.FfmpegFailed("nothing comes of its end")


def _played(path: Path, picture: tuple[str, ...], *span: str) -> float:
    """The seconds that come of *span*. Raises FfmpegFailed where it is damaged."""
    came = 0.0

    def hear(line: str) -> None:
        nonlocal came
        name, _, value = line.strip().partition("=")
        if name == "out_time_us" and value.isdigit():
            came = int(value) / 1e6

    command = [*QUIET, "-xerror", "-progress", "pipe:1", *span, *LOCAL_ONLY, "-i", str(path)]
    running.run([*command, *picture, "-f", "null", "-"], hear)
    return came


def decodes(codec: str) -> bool:
    """Whether *codec* can be decoded: AV1 in ffmpeg's own name means a graphics card."""
    return codec != "av1" or any(name in _decoders() for name in ("libdav1d", "libaom-av1"))


@functools.cache
def _decoders() -> str:
    return subprocess.run(
        ["ffmpeg", "-hide_banner", "-decoders"], capture_output=True, text=True, check=False, timeout=10
    ).stdout


def run(command: list[str], duration: float = 0.0, tell: Callable[[float], None] | None = None) -> None:
    """Run *command* to its end. *tell* hears how far of *duration* seconds it is.

    Raises FfmpegFailed, for an ffmpeg that does nothing any more as well.
    """

    def hear(line: str) -> None:
        key, _, value = line.strip().partition("=")
        if key == "out_time_us" and value.isdigit() and duration > 0 and tell is not None:
            tell(int(value) / 1e6 / duration)

    running.run(command, hear)
