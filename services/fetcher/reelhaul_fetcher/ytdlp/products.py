"""Finished files as products: measured and hashed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from reelhaul.type.v1.media_pb2 import ArtifactInfo, Checksums
from reelhaul_fetcher.media import verify
from reelhaul_fetcher.model import names
from reelhaul_fetcher.model.orders import Product


def hashing(path: Path) -> Future[bytes]:
    """The SHA-256 of *path* to come, while something else is done."""
    hand = ThreadPoolExecutor(1, "hashing")
    hashed = hand.submit(verify.digest, path)
    hand.shutdown(wait=False)
    return hashed


def product(
    path: Path,
    kind: ArtifactInfo.Kind.ValueType,
    file_name: str,
    language: str = "",
    hashed: Future[bytes] | None = None,
) -> Product:
    """*path* as a product called *file_name*; *hashed* is its ``hashing``, where that was begun."""
    info = ArtifactInfo(
        kind=kind,
        file_name=file_name,
        media_type=names.MEDIA_TYPES[path.suffix.lstrip(".")],
        size_bytes=path.stat().st_size,
        checksums=Checksums(sha256=hashed.result() if hashed else verify.digest(path)),
        language_code=language,
    )
    return Product(path, info)
