"""Scrubber: re-reads stored bytes in the background, at a limited rate, and records what is damaged."""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable
from datetime import datetime, timedelta

from reelhaul_runtime.errors import Unavailable
from reelhaul_storage import metrics
from reelhaul_storage.digests import Hasher
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import Blob
from reelhaul_storage.ports import BlobStore, Catalog

log = logging.getLogger(__name__)

#: Blobs are verified again when they were last verified longer ago than this.
_MAX_AGE = timedelta(days=7)
# Between two queries for a blob to verify, while there is none.
_IDLE_SECONDS = 30.0


class Scrubber:
    """Verifies blobs, the ones that were verified least recently first. May run on several replicas."""

    def __init__(
        self, catalog: Catalog, blobs: BlobStore, now: Callable[[], datetime], bytes_per_second: int
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._now = now
        self._bytes_per_second = bytes_per_second

    async def verify_next(self) -> bool:
        """Read and verify one blob; return whether there was one to verify.

        Raises STORAGE_UNAVAILABLE while the backend is away: then nothing is known to be damaged.
        """
        now = self._now()
        blob = await self._catalog.claim_blob_to_verify(now - _MAX_AGE, now)
        if blob is None:
            return False
        crc32 = await self._read(blob)
        if crc32 is not None:
            await self._catalog.mark_verified(blob.key, self._now())
            await self._catalog.set_crc32(blob.key, blob.content, crc32)
        else:
            log.error("damaged bytes", extra={"blob": blob.key})
            await self._catalog.mark_damaged(blob.key, blob.content, now, self._now())
        return True

    async def _read(self, blob: Blob) -> int | None:
        """Return the CRC-32 of *blob*, which archives need; None if the blob is damaged."""
        hasher, crc32, size = Hasher(), 0, blob.content.size
        try:
            # Published files may also be longer than they were.
            if (stored_size := await self._blobs.size(blob.key)) != size:
                (metrics.MISSING if stored_size is None else metrics.CORRUPT).inc()
                return None
            async for piece in self._blobs.read(blob.key, 0, size):
                await asyncio.to_thread(hasher.update, piece)
                metrics.SCRUBBED_BYTES.inc(len(piece))
                crc32 = zlib.crc32(piece, crc32)
                await asyncio.sleep(len(piece) / self._bytes_per_second)
        except (EOFError, KeyError) as error:
            (metrics.MISSING if isinstance(error, KeyError) else metrics.CORRUPT).inc()
            return None
        if hasher.digests() != blob.content:
            metrics.CORRUPT.inc()
            return None
        return crc32


async def scrub_forever(scrubber: Scrubber) -> None:
    """Verify blobs until cancelled, as long as there are some to verify. Failures are logged."""
    while True:
        try:
            found = await scrubber.verify_next()
        except (BackendUnavailable, Unavailable) as error:
            log.warning("scrubbing pauses", extra={"cause": error.text})
            found = False
        except Exception as error:
            log.exception("scrubbing failed; it continues", extra={"cause": repr(error)})
            found = False
        if not found:
            await asyncio.sleep(_IDLE_SECONDS)
