"""ffmpeg on local files: run it, read pictures."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path

from reelhaul_fetcher.media import subprocess as running

#: It reads local files and nothing else, whatever the file says.
LOCAL_ONLY = ("-protocol_whitelist", "file,pipe,crypto,data")
#: How every command of ours begins.
QUIET = ("ffmpeg", "-hide_banner", "-nostdin", "-v", "error")


def to_jpeg(picture: Path, output: Path) -> None:
    """Write *picture* as JPEG. Raises FfmpegFailed."""
    run([*QUIET, "-y", *LOCAL_ONLY, "-i", str(picture), "-frames:v", "1", "-q:v", "3", str(output)])


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
