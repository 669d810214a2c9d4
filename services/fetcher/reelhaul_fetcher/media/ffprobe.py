"""What a local file really holds, by ffprobe."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TIMEOUT_SECONDS = 120

#: ffmpeg and ffprobe read local files and nothing else, whatever the file says.
LOCAL_ONLY = ("-protocol_whitelist", "file,pipe,crypto,data")


@dataclass(frozen=True, slots=True)
class Inspection:
    """A file as ffprobe sees it. *duration* is in seconds; 0 where it does not say."""

    containers: frozenset[str] = frozenset()
    duration: float = 0.0
    size: int = 0
    video: dict[str, Any] = field(default_factory=dict)
    audio: dict[str, Any] = field(default_factory=dict)

    @property
    def video_codec(self) -> str:
        """ffprobe's name of the picture's codec; empty without a picture."""
        return str(self.video.get("codec_name", ""))

    @property
    def audio_codec(self) -> str:
        """ffprobe's name of the sound's codec; empty without sound."""
        return str(self.audio.get("codec_name", ""))


class NotMedia(Exception):
    """ffprobe makes nothing of the file."""


def inspect(path: Path) -> Inspection:
    """What *path* holds. Raises NotMedia."""
    command = [
        "ffprobe",
        "-v",
        "error",
        *LOCAL_ONLY,
        "-of",
        "json",
        "-show_format",
        "-show_streams",
        str(path),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise NotMedia("ffprobe did not come to an end") from error
    if done.returncode != 0:
        raise NotMedia(done.stderr.decode(errors="replace").strip()[-200:])
    told = json.loads(done.stdout)
    streams = [s for s in told.get("streams", ()) if not s.get("disposition", {}).get("attached_pic")]
    shape = told.get("format", {})
    return Inspection(
        containers=frozenset(shape.get("format_name", "").split(",")),
        duration=float(shape.get("duration") or 0),
        size=int(shape.get("size") or path.stat().st_size),
        video=next((s for s in streams if s.get("codec_type") == "video"), {}),
        audio=next((s for s in streams if s.get("codec_type") == "audio"), {}),
    )
