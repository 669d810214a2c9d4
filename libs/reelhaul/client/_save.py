"""Saving an artifact over gRPC: received in pieces, through as many connections as it takes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpc import aio

from reelhaul import file_names
from reelhaul._core.errors import CallFailed, SaveFailed, connection_lost
from reelhaul._core.part_file import ATTEMPTS, OnProgress, PartFile, os_errors_as_save_failed
from reelhaul._core.retries import Retries
from reelhaul.client._errors import from_rpc_error
from reelhaul.storage.v1.storage_service_pb2 import ReadArtifactRequest, ReadArtifactResponse
from reelhaul.type.v1 import media_pb2

#: Starts a ReadArtifact call.
StartRead = Callable[[ReadArtifactRequest], aio.UnaryStreamCall[Any, ReadArtifactResponse]]

# Storage sends as fast as the client reads: longer silence means a dead connection.
_SILENCE_SECONDS = 30.0


async def save(
    start_read: StartRead,
    artifact: media_pb2.ArtifactInfo,
    to: Path,
    on_progress: OnProgress,
    retry_timeout: float,
) -> Path:
    """Save *artifact* as the file *to*, or into the folder *to*; return its path."""
    if await asyncio.to_thread(to.is_dir):
        name = artifact.file_name or artifact.name.rpartition("/")[2]
        to /= file_names.sanitize_untrusted(name)
    part = PartFile(to, artifact.size_bytes, artifact.checksums.sha256.hex())
    problem = ""
    with os_errors_as_save_failed(to):
        for _ in range(ATTEMPTS):
            await _receive(start_read, artifact.name, part, on_progress, retry_timeout)
            problem = await asyncio.to_thread(part.discard_if_damaged)
            if not problem:
                return part.publish(overwrite=True)
    raise SaveFailed(f"{to.name}: {problem}")


async def _receive(
    start_read: StartRead, name: str, part: PartFile, on_progress: OnProgress, retry_timeout: float
) -> None:
    """Receive bytes until *part* is complete, reconnecting as often as needed."""
    retries, reader = Retries(seconds=retry_timeout), _Reader(start_read, name, part, on_progress)
    while not part.is_complete():
        received = part.received()
        try:
            await reader.read()
            failure = connection_lost("the stream ended too early")
        except CallFailed as error:
            failure = error
        if part.received() > received:
            retries.reset()
        if failure.reason == "ETAG_MISMATCH" and reader.etag:
            # The artifact's labels or expiry have changed; its bytes never do.
            reader.etag = ""
        elif not part.is_complete():
            await asyncio.sleep(retries.next_delay(failure))


class _Reader:
    """Reads one artifact into one part file."""

    def __init__(self, start_read: StartRead, name: str, part: PartFile, on_progress: OnProgress) -> None:
        self._start_read = start_read
        self._name = name
        self._part = part
        self._on_progress = on_progress
        #: The etag when the artifact was last read; guards a resume.
        self.etag = ""

    async def read(self) -> None:
        """Append what one connection delivers to the part file. Raises CallFailed."""
        offset = self._part.received()
        call = self._start_read(ReadArtifactRequest(name=self._name, read_offset=offset, etag=self.etag))
        try:
            with self._part.path.open("ab") as out:
                while True:
                    async with asyncio.timeout(_SILENCE_SECONDS):
                        message: Any = await call.read()
                    if message is aio.EOF:
                        break
                    if message.HasField("artifact"):
                        self.etag = message.artifact.etag
                    offset += len(message.content)
                    self._part.check_received(offset)
                    await asyncio.to_thread(out.write, message.content)
                    self._on_progress(offset)
                out.flush()
                await asyncio.to_thread(os.fsync, out.fileno())
        except TimeoutError:
            raise connection_lost("the stream fell silent") from None
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()
