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
    # From the end as well: a file cut short keeps a good header.
    spans = [("-t", "1"), ("-ss", f"{duration - 1:.3f}")] if duration > _SHORT_SECONDS else [()]
    command = [*QUIET, "-xerror"]
    for span in spans:
        command += [*span, *LOCAL_ONLY, "-i", str(path)]
    for number in range(len(spans)):
        command += ["-map", f"{number}:V:0?", "-map", f"{number}:a:0?", *picture, "-f", "null", "-"]
    run(command)


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
