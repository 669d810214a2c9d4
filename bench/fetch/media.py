"""Real media of a wanted size, made from the local site's in a moment."""

from __future__ import annotations

from pathlib import Path

from tests.sites import media, tools

from bench.fetch.origin import box

_FULL = "/media/1080.mp4"


def make(folder: Path, name: str, size: int) -> Path:
    """An MP4 of about *size* bytes, the picture again and again."""
    source = media.ensure_media().file(_FULL)
    loops = max(1, round(size / source.stat().st_size))
    path = folder / name
    again = ["-stream_loop", str(loops - 1), "-i", str(source)]
    tools.run_ffmpeg(*again, "-c", "copy", "-movflags", "+faststart", str(path))
    with path.open("ab") as file:
        file.write(box(0))
    return path


def make_small(folder: Path) -> Path:
    """An MP4 of about 100 KB."""
    path = folder / "small.mp4"
    source = media.ensure_media().file("/media/360.mp4")
    encoded = ["-c:v", "libx264", "-preset", "superfast", "-b:v", "340k", "-c:a", "copy"]
    tools.run_ffmpeg("-i", str(source), "-t", "2", *encoded, "-movflags", "+faststart", str(path))
    return path


def renew(path: Path, number: int) -> None:
    """Make another file of *path*, as long as before: who has seen it has not seen this one."""
    with path.open("r+b") as file:
        file.seek(-16, 2)
        file.write(box(number))
