"""Finished files as products."""

from __future__ import annotations

from pathlib import Path

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.model.engine_requests import Product

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
