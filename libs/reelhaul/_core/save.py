"""Saving: the files of a job are received, verified, and moved to their names together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from reelhaul._core.errors import CallFailed, connection_lost
from reelhaul._core.part_file import ATTEMPTS, PartFile
from reelhaul._core.retries import Retries
from reelhaul._core.transport import Transport
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.existing_files import (
    Content,
    OnExists,
    Placement,
    SaveFailed,
    os_errors_as_save_failed,
    prepare_folder,
)

#: Called with a file and the number of its bytes received so far.
OnProgress = Callable[[File, int], object]


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete and verified file."""

    file: File
    path: Path
    size_bytes: int
    sha256: str
    #: ``saved`` now, or ``identical``: the very content was there already.
    outcome: Literal["saved", "identical"]


async def save_files(
    transport: Transport,
    files: Sequence[File],
    folder: Path,
    on_exists: OnExists,
    on_progress: OnProgress | None,
    reconnect_timeout: float,
) -> list[Saved]:
    """Save *files*, those of one job, into *folder*; return nothing if they are skipped.

    Raises CallFailed and SaveFailed. What was received until then is resumed by a later call.
    """
    if not files:
        return []
    contents = [Content(file.name, int(file.size_bytes), file.sha256.lower()) for file in files]
    placement = Placement(folder, contents, on_exists)
    await asyncio.to_thread(prepare_folder, folder)
    existing = await asyncio.to_thread(placement.choose)
    parts: dict[int, Path] = {}
    for number, target in enumerate(existing):
        file = files[number]
        if target.exists:
            if on_progress is not None:
                on_progress(file, contents[number].size)
            continue
        part = PartFile(folder, placement.names[number], contents[number])
        with os_errors_as_save_failed(target.path):
            await _receive_verified(transport, file, part, on_progress, reconnect_timeout)
        parts[number] = part.path
    if not existing:
        return []
    targets = await asyncio.to_thread(placement.publish, parts)
    if not targets:
        for path in parts.values():
            path.unlink()
    return [
        Saved(file, target.path, content.size, content.sha256, "identical" if target.exists else "saved")
        for file, target, content in zip(files, targets, contents, strict=False)
    ]


async def _receive_verified(
    transport: Transport, file: File, part: PartFile, on_progress: OnProgress | None, reconnect_timeout: float
) -> None:
    """Receive *file* into *part*, and once more if it is damaged. Raises SaveFailed if it still is."""
    problem = ""
    for _ in range(ATTEMPTS):
        await _receive(transport, file, part, on_progress, reconnect_timeout)
        problem = await asyncio.to_thread(part.discard_if_damaged)
        if not problem:
            return
    raise SaveFailed(f"{part.name}: {problem}")


async def _receive(
    transport: Transport, file: File, part: PartFile, on_progress: OnProgress | None, reconnect_timeout: float
) -> None:
    """Receive bytes until *part* is complete, reconnecting as often as needed."""
    retries = Retries(seconds=reconnect_timeout)
    while not part.is_complete():
        received = part.received()
        try:
            await _read(transport, file, part, on_progress)
            failure = connection_lost("the connection ended too early")
        except CallFailed as error:
            failure = error
        if part.received() > received:
            retries.reset()
        if not part.is_complete():
            await asyncio.sleep(retries.next_delay(failure))


async def _read(transport: Transport, file: File, part: PartFile, on_progress: OnProgress | None) -> None:
    """Append what one connection delivers to *part*. Raises CallFailed."""
    offset = part.received()
    with part.path.open("ab") as out:
        async with aclosing(transport.read(file, offset)) as pieces:
            # Pieces as they arrive: a buffer that is filled first would be lost with the connection.
            async for piece in pieces:
                offset += len(piece)
                part.check_received(offset)
                await asyncio.to_thread(_append, out, piece)
                if on_progress is not None:
                    on_progress(file, offset)
        await asyncio.to_thread(os.fsync, out.fileno())


def _append(out: BinaryIO, piece: bytes) -> None:
    out.write(piece)
    out.flush()
