"""Finished files as products."""

from __future__ import annotations

from pathlib import Path

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.model import file_names
from reelhaul_fetcher.model.engine_requests import Product


def product(path: Path, kind: ArtifactInfo.Kind.ValueType, file_name: str, language: str = "") -> Product:
    """*path* as a product called *file_name*. Nobody hashes it here: storage does."""
    info = ArtifactInfo(
        kind=kind,
        file_name=file_name,
        media_type=file_names.MEDIA_TYPES[path.suffix.lstrip(".")],
        size_bytes=path.stat().st_size,
        language_code=language,
    )
    return Product(path, info)
