"""What the engine is asked for, and what it answers with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import ArtifactInfo


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Media to fetch into a folder of its own.

    ``proxy_url`` is the only way out, pass included. ``size_limit`` is the most bytes to
    receive and ``max_seconds`` the longest play time; ``record_seconds`` is how much of a
    broadcast to record, ``patience_seconds`` how long to be about it; 0 means no limit.
    ``idle_seconds`` is how long an ffmpeg may do nothing.
    """

    url: str
    format: media_pb2.FormatSpec
    folder: Path
    proxy_url: str
    size_limit: int = 0
    max_seconds: float = 0.0
    record_seconds: float = 0.0
    record_timeout_seconds: float = 0.0
    idle_seconds: float = 60.0
    cpu_seconds: int = 4 * 3600
    memory_bytes: int = 4 << 30
    #: Cookies to ask the site with, in Netscape's form: a copy that nobody else has.
    cookies: str = field(default="", repr=False)
    #: The user ended its recording before, and that was lost: a moment of what is on air, or nothing.
    recording_stopped: bool = False


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """Metadata to read. *playlist* takes the list of a URL that names a video within one."""

    url: str
    proxy_url: str
    max_entries: int = 50
    playlist: bool = False
    cpu_seconds: int = 120
    memory_bytes: int = 1 << 30
    cookies: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ExpandRequest:
    """A playlist or channel to page through, up to *max_entries*, beginning after *start_position*."""

    url: str
    proxy_url: str
    max_entries: int
    start_position: int = 0
    cpu_seconds: int = 1800
    memory_bytes: int = 2 << 30
    cookies: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ExtractorListRequest:
    """Every site that the engine knows. Nobody is asked: the way out leads nowhere."""

    url: str = ""
    proxy_url: str = "http://127.0.0.1:9"
    cpu_seconds: int = 60
    memory_bytes: int = 1 << 30
    cookies: str = ""


@dataclass(frozen=True, slots=True)
class ExpandResult:
    """A list that was paged through: what the site says of it, without its entries."""

    media: media_pb2.MediaInfo
    #: It has more entries than were asked for.
    truncated: bool = False


#: Whatever the engine may be asked for.
EngineRequest = FetchRequest | ProbeRequest | ExpandRequest | ExtractorListRequest


@dataclass(frozen=True, slots=True)
class Product:
    """A finished file: where it lies and what it is; its size is filled in, checksums are not."""

    path: Path
    info: media_pb2.ArtifactInfo


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A fetch that went well: checked files, the media first."""

    media: media_pb2.MediaInfo
    products: tuple[Product, ...]
    delivered: media_pb2.DeliveredMedia
    warnings: tuple[media_pb2.Warning, ...] = ()


@dataclass(slots=True)
class HttpStatusCounts:
    """What was seen on the way, whether the fetch went well or not."""

    #: HTTP statuses that were not 2xx, and how often.
    http_statuses: dict[int, int] = field(default_factory=dict)


# IANA media types by extension: also the list of the extensions that we produce.
_MEDIA_TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "opus": "audio/ogg",
    "ogg": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "txt": "text/plain",
    "json": "application/json",
    "jpg": "image/jpeg",
}


def product(path: Path, kind: ArtifactInfo.Kind.ValueType, file_name: str, language: str = "") -> Product:
    """*path* as a product called *file_name*. Nobody hashes it here: storage does."""
    info = ArtifactInfo(
        kind=kind,
        file_name=file_name,
        media_type=_MEDIA_TYPES[path.suffix.lstrip(".")],
        size_bytes=path.stat().st_size,
        language_code=language,
    )
    return Product(path, info)
