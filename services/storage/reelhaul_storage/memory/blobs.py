"""Bytes in a dict."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.digests import Digests, Hasher
from reelhaul_storage.errors import OffsetConflict

_PIECE = 512 << 10


@dataclass(slots=True)
class _Content:
    content: bytearray = field(default_factory=bytearray)
    time: float = field(default_factory=time.time)

    async def write(self, content: bytes) -> None:
        self.content += content
        self.time = time.time()

    async def persist(self) -> int:
        return len(self.content)


class MemoryBlobStore:
    """A BlobStore that forgets."""

    def __init__(self) -> None:
        self._staged: dict[str, _Content] = {}
        self._blobs: dict[str, _Content] = {}
        self._writing: set[str] = set()
        #: The shared folder: what ``adopt`` may take.
        self.shared: dict[str, bytes] = {}

    @property
    def backend(self) -> str:
        """``memory``."""
        return "memory"

    @asynccontextmanager
    async def stage(self, upload: str, offset: int) -> AsyncIterator[_Content]:
        """As BlobStore.stage."""
        if upload in self._writing:
            raise OffsetConflict("another writer is active", offset)
        size = await self.staged_size(upload)
        if size != offset:
            raise OffsetConflict(f"write_offset is {offset}, but {size} bytes are here", size)
        self._writing.add(upload)
        try:
            yield self._staged.setdefault(upload, _Content())
        finally:
            self._writing.discard(upload)

    async def staged_size(self, upload: str) -> int:
        """As BlobStore.staged_size."""
        return len(self._staged.get(upload, _Content()).content)

    async def digests(self, upload: str) -> Digests:
        """As BlobStore.digests."""
        hasher = Hasher()
        hasher.update(bytes(self._alone(upload).content))
        return hasher.digests()

    def look_ahead(self, upload: str, path: str) -> None:
        """As BlobStore.look_ahead: memory needs none."""

    async def adopt(self, upload: str, path: str) -> None:
        """As BlobStore.adopt."""
        if path not in self.shared:
            raise FieldInvalid("adopt_path", "leads to no file in the shared folder")
        self._staged[upload] = _Content(bytearray(self.shared[path]))

    async def publish(self, upload: str, key: str, size: int) -> None:
        """As BlobStore.publish."""
        found = len(self._alone(upload).content)
        if found != size:
            raise OffsetConflict("the upload was written to while it was finished", found)
        self._blobs[key] = self._staged.pop(upload, _Content())

    async def discard(self, upload: str) -> None:
        """As BlobStore.discard."""
        self._staged.pop(upload, None)

    async def size(self, key: str) -> int | None:
        """As BlobStore.size."""
        return len(self._blobs[key].content) if key in self._blobs else None

    async def read(self, key: str, offset: int, length: int) -> AsyncIterator[bytes]:
        """As BlobStore.read."""
        content = bytes(self._blobs[key].content)
        for at in range(offset, offset + length, _PIECE):
            end = min(at + _PIECE, offset + length)
            yield content[at:end]
            if end > len(content):
                raise EOFError(key)

    async def delete(self, key: str) -> None:
        """As BlobStore.delete."""
        self._blobs.pop(key, None)

    async def staged(self, before: datetime) -> AsyncIterator[str]:
        """As BlobStore.staged."""
        for upload in _before(self._staged, before):
            yield upload

    async def keys(self, before: datetime) -> AsyncIterator[str]:
        """As BlobStore.keys."""
        for key in _before(self._blobs, before):
            yield key

    async def check(self) -> None:
        """As BlobStore.check: memory is always there."""

    def _alone(self, upload: str) -> _Content:
        if upload in self._writing:
            raise OffsetConflict("another writer is active", len(self._staged[upload].content))
        return self._staged.get(upload, _Content())


def _before(contents: dict[str, _Content], before: datetime) -> list[str]:
    return [name for name, each in contents.items() if datetime.fromtimestamp(each.time, UTC) < before]
