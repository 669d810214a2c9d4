"""Requests to the engine and their results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.media_pb2 import ArtifactInfo

#: Folder of the media as received, within that of a fetch. It outlives an attempt.
RECEIVED_FOLDER = "received"

# IANA media types by extension, which also limits the extensions that we produce.
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


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Download media into a folder of its own. For limits, 0 means no limit."""

    url: str
    format: media_pb2.FormatSpec
    folder: Path
    #: The guard, credentials included: the only way to the network.
    proxy_url: str
    #: Title that the list has for the media; empty: that of its page.
    title: str = ""
    #: Most bytes to receive.
    size_limit: int = 0
    #: Longest play time.
    max_seconds: float = 0.0
    #: Play time to record of a live stream, and the time that the recording may take.
    record_seconds: float = 0.0
    record_timeout_seconds: float = 0.0
    #: How long an ffmpeg process may do nothing.
    idle_seconds: float = 60.0
    cpu_seconds: int = 4 * 3600
    memory_bytes: int = 4 << 30
    #: Cookies in Netscape's format; this request alone has them.
    cookies: str = field(default="", repr=False)
    #: The user stopped this recording earlier, and what it had was lost. A live stream is recorded for a
    #: moment; media that is no longer live raises RECORDING_LOST.
    recording_stopped: bool = False

    @property
    def received(self) -> Path:
        """Folder of the media as received; with what an earlier attempt left there, if one did."""
        return self.folder / RECEIVED_FOLDER


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """Read metadata. With *playlist*, a URL that names a video within a list stands for the list."""

    url: str
    proxy_url: str
    max_entries: int = 50
    playlist: bool = False
    cpu_seconds: int = 120
    memory_bytes: int = 1 << 30
    cookies: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ExpandRequest:
    """Page through a playlist or channel: the entries after *start_position*, up to *max_entries*."""

    url: str
    proxy_url: str
    max_entries: int
    start_position: int = 0
    cpu_seconds: int = 1800
    memory_bytes: int = 2 << 30
    cookies: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ExtractorListRequest:
    """List the extractors. No site is accessed: the proxy URL leads nowhere."""

    url: str = ""
    proxy_url: str = "http://127.0.0.1:9"
    cpu_seconds: int = 60
    memory_bytes: int = 1 << 30
    cookies: str = ""


EngineRequest = FetchRequest | ProbeRequest | ExpandRequest | ExtractorListRequest


@dataclass(frozen=True, slots=True)
class Product:
    """A finished file. *info* has its size; storage adds the checksums."""

    path: Path
    info: ArtifactInfo

    @classmethod
    def from_file(
        cls, path: Path, kind: ArtifactInfo.Kind.ValueType, file_name: str, language: str = ""
    ) -> Product:
        """Return the file at *path* as a product that users see as *file_name*."""
        info = ArtifactInfo(
            kind=kind,
            file_name=file_name,
            media_type=_MEDIA_TYPES[path.suffix.lstrip(".")],
            size_bytes=path.stat().st_size,
            language_code=language,
        )
        return cls(path, info)


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A successful download: verified files, the media first."""

    media: media_pb2.MediaInfo
    products: tuple[Product, ...]
    delivered: media_pb2.DeliveredMedia
    warnings: tuple[media_pb2.Warning, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpandResult:
    """A list that was paged through: its metadata, without the entries."""

    media: media_pb2.MediaInfo
    #: The list has more entries than were asked for.
    truncated: bool = False
    warnings: tuple[media_pb2.Warning, ...] = ()


@dataclass(slots=True)
class HttpStatusCounts:
    """HTTP responses during a request, whether it succeeded or not."""

    #: How often each status other than 2xx was received.
    http_statuses: dict[int, int] = field(default_factory=dict)
