"""Saving an artifact: received in pieces, verified, and given its name in one step."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpc import aio

from reelhaul import file_names
from reelhaul._core.retries import Retries
from reelhaul.client import _errors
from reelhaul.client._errors import CallFailed, SaveFailed
from reelhaul.storage.v1.storage_service_pb2 import ReadArtifactRequest, ReadArtifactResponse
from reelhaul.type.v1 import media_pb2

#: Told the bytes there are so far.
Received = Callable[[int], object]

#: Begins a ReadArtifact.
Opening = Callable[[ReadArtifactRequest], aio.UnaryStreamCall[Any, ReadArtifactResponse]]

# For the next piece; storage sends them as fast as they are taken.
_SILENCE_SECONDS = 30.0


def nothing(_: int) -> None:
    """Nobody wants to know."""


async def save(
    opening: Opening,
    artifact: media_pb2.ArtifactInfo,
    to: Path,
    received: Received,
    seconds: float,
) -> Path:
    """See Client.save."""
    wanted = _place(artifact, to)
    digest = artifact.checksums.sha256.hex()
    # The digest in its name: what is taken up again is a piece of the same content.
    part = wanted.with_name(f".{digest[:16] or 'unknown'}.{wanted.name[-60:]}.part")
    try:
        await _fetch(opening, artifact, part, received, seconds)
        if problem := await asyncio.to_thread(_problem, part, artifact.size_bytes, digest):
            # A piece from another time may have been damaged: once more, from nothing.
            part.unlink()
            await _fetch(opening, artifact, part, received, seconds)
            problem = await asyncio.to_thread(_problem, part, artifact.size_bytes, digest)
        if problem:
            part.unlink()
            raise SaveFailed(f"{wanted.name}: {problem}")
        return part.replace(wanted)
    except OSError as error:
        raise SaveFailed(f"{error.filename or wanted}: {error.strerror or error}") from error


async def _fetch(
    opening: Opening,
    artifact: media_pb2.ArtifactInfo,
    part: Path,
    received: Received,
    seconds: float,
) -> None:
    """Bring *part* to the full size, however often the connection breaks."""
    retries, reading = Retries(seconds), _Reading(opening, artifact, part, received)
    while True:
        before = reading.size()
        if reading.whole():
            return
        try:
            await reading.go_on()
            failure = _errors.connection_lost("the stream ended too early")
        except CallFailed as error:
            failure = error
        if reading.size() > before:
            retries.reset()
        if failure.reason == "ETAG_MISMATCH" and reading.etag:
            # Its labels or its expiry changed; bytes never do under a name.
            reading.etag = ""
        elif not reading.whole():
            await retries.wait(failure)


class _Reading:
    """One artifact being received into one file."""

    def __init__(
        self,
        opening: Opening,
        artifact: media_pb2.ArtifactInfo,
        part: Path,
        received: Received,
    ) -> None:
        self._opening = opening
        self._artifact = artifact
        self._part = part
        self._received = received
        #: Of the artifact when it was last read; guards a resume.
        self.etag = ""

    def size(self) -> int:
        """Bytes there are."""
        return self._part.stat().st_size if self._part.exists() else 0

    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self._part.exists() and self.size() >= self._artifact.size_bytes

    async def go_on(self) -> None:
        """One connection's worth, written to the end of the file. Raises CallFailed."""
        offset = self.size()
        request = ReadArtifactRequest(name=self._artifact.name, read_offset=offset, etag=self.etag)
        call = self._opening(request)
        try:
            with self._part.open("ab") as out:
                while True:
                    async with asyncio.timeout(_SILENCE_SECONDS):
                        message: Any = await call.read()
                    if message is aio.EOF:
                        break
                    if message.HasField("artifact"):
                        self.etag = message.artifact.etag
                    offset += len(message.content)
                    if offset > self._artifact.size_bytes:
                        raise SaveFailed(f"the server sends more than {self._artifact.size_bytes} bytes")
                    await asyncio.to_thread(out.write, message.content)
                    self._received(offset)
                out.flush()
                await asyncio.to_thread(os.fsync, out.fileno())
        except TimeoutError:
            raise _errors.connection_lost("the stream fell silent") from None
        except aio.AioRpcError as error:
            raise _errors.of_rpc(error) from error
        finally:
            call.cancel()


def _place(artifact: media_pb2.ArtifactInfo, to: Path) -> Path:
    if not to.is_dir():
        return to
    return to / file_names.sanitize_untrusted(artifact.file_name or artifact.name.rpartition("/")[2])


def _problem(part: Path, size: int, digest: str) -> str:
    """Why *part* is not what was promised; empty where it is."""
    if part.stat().st_size != size:
        return f"{part.stat().st_size} bytes were received, not {size}"
    with part.open("rb") as content:
        if digest and hashlib.file_digest(content, "sha256").hexdigest() != digest:
            return "its SHA-256 is not the one promised"
    return ""
