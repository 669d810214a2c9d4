"""ffmpeg on local files: run it, read pictures, try whether a file plays."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Sequence
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
    # From the end as well: a file cut short keeps a good header.
    if _came(path, [("-t", "1"), ("-ss", f"{duration - 1:.3f}")], picture):
        return
    # Subtitles may go on a little longer than what they are about.
    earlier = ("-ss", f"{max(0.0, duration - max(3.0, 0.03 * duration)):.3f}", "-t", "1")
    if not _came(path, [earlier], picture):
        raise running.FfmpegFailed("nothing comes of its end")


def _played(path: Path, picture: tuple[str, ...]) -> float:
    """The seconds that come of the whole of it. Raises FfmpegFailed where it is damaged."""
    came = 0.0

    def hear(line: str) -> None:
        nonlocal came
        name, _, value = line.strip().partition("=")
        if name == "out_time_us" and value.isdigit():
            came = int(value) / 1e6

    command = [*QUIET, "-xerror", "-progress", "pipe:1", *LOCAL_ONLY, "-i", str(path)]
    running.run([*command, *picture, "-f", "null", "-"], hear)
    return came


def _came(path: Path, spans: Sequence[tuple[str, ...]], picture: tuple[str, ...]) -> bool:
    """Whether anything came of the last of *spans*. Raises FfmpegFailed where one is damaged.

    ffmpeg itself finds no fault with an end of which nothing comes. One run: to begin costs most.
    """
    frames: list[str] = []
    command = [*QUIET, "-xerror"]
    for span in spans:
        command += [*span, *LOCAL_ONLY, "-i", str(path)]
    for number in range(len(spans)):
        command += ["-map", f"{number}:V:0?", "-map", f"{number}:a:0?"]
        if number < len(spans) - 1:
            command += [*picture, "-f", "null", "-"]
    # A line for each frame; wrapped, pictures are not copied for it.
    command += [*(picture or ("-c:v", "wrapped_avframe")), "-f", "framecrc", "pipe:1"]
    running.run(command, lambda line: None if line.startswith("#") else frames.append(line))
    return bool(frames)


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
