"""Saving files: under safe names, resumed where they broke off, kept only when verified."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from reelhaul import file_names
from reelhaul.backoff import FIRST_SECONDS, LONGEST_SECONDS, exponential_delay
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.rest import _errors
from reelhaul.rest._errors import CallFailed, SaveFailed

#: Told the bytes of a file that are there so far.
Received = Callable[[int], None]

_TIMEOUT = httpx.Timeout(30, connect=5)
# Tries in a row that bring no byte.
_TRIES = 6


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that is there, whole and verified."""

    path: Path
    size_bytes: int
    sha256: str


def nothing(count: int) -> None:
    """Tell nobody."""


def save(http: httpx.Client, file: File, folder: Path, overwrite: bool, received: Received) -> Saved:
    """See Client.save."""
    size, digest = int(file.size_bytes), file.sha256.lower()
    wanted = folder / file_names.sanitize_untrusted(file.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not overwrite and _is(wanted, size, digest):
            received(size)
            return Saved(wanted, size, digest)
        # The digest in its name: what is taken up again is a piece of the same content.
        part = folder / f".{digest[:16] or 'unknown'}.{os.path.basename(wanted)[-60:]}.part"
        _fetch(http, file, part, received)
        if not _is(part, size, digest):
            # A piece from another time may have been damaged: once more, from nothing.
            part.unlink()
            _fetch(http, file, part, received)
            _verify(part, file)
        path = _publish(part, wanted, overwrite)
    except OSError as error:
        raise SaveFailed(f"{error.filename or wanted}: {error.strerror or error}") from error
    return Saved(path, path.stat().st_size, digest)


def _fetch(http: httpx.Client, file: File, part: Path, received: Received) -> None:
    """Bring *part* to the full size, however often the connection breaks."""
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before and before >= file.size_bytes:
            return
        try:
            _receive(http, file, part, received)
            if part.stat().st_size >= file.size_bytes:
                return
            failure = CallFailed("UNAVAILABLE", "", "the connection ended too early")
        except httpx.HTTPError as error:
            failure = _errors.unreachable(str(http.base_url), error)
        except CallFailed as error:
            failure = error
        tries = 0 if part.exists() and part.stat().st_size > before else tries + 1
        if not failure.transient or tries >= _TRIES:
            raise failure
        delay = exponential_delay(tries, FIRST_SECONDS, LONGEST_SECONDS)
        time.sleep(max(delay, min(failure.retry_seconds or 0, 30)))


def _receive(http: httpx.Client, file: File, part: Path, received: Received) -> None:
    """One connection's worth of *file*, written to the end of *part*."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with http.stream("GET", file.url, headers=headers, timeout=_TIMEOUT) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise CallFailed("UNAVAILABLE", "", "the server has less than was received")
        if not response.is_success:
            response.read()
            raise _errors.of_response(response)
        if start and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            start = 0
        with part.open("ab" if start else "wb") as out:
            # As they come: a buffer filled up first would be lost with the connection.
            for chunk in response.iter_raw():
                out.write(chunk)
                start += len(chunk)
                received(start)
                if start > file.size_bytes:
                    raise SaveFailed(f"{file.name}: the server sends more than {file.size_bytes:.0f} bytes")
            out.flush()
            os.fsync(out.fileno())


def _verify(part: Path, file: File) -> None:
    size = part.stat().st_size
    if size != file.size_bytes:
        problem = f"{size} bytes were received, not {file.size_bytes:.0f}"
    elif not _is(part, size, file.sha256.lower()):
        problem = "its SHA-256 is not the one promised"
    else:
        return
    part.unlink()
    raise SaveFailed(f"{file.name}: {problem}")


def _is(path: Path, size: int, digest: str) -> bool:
    """Whether *path* is a file of that size and SHA-256 (any, where *digest* is empty)."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as content:
        return not digest or hashlib.file_digest(content, "sha256").hexdigest() == digest


def _publish(part: Path, wanted: Path, overwrite: bool) -> Path:
    """Give *part* its name in one step, so that no one ever sees half a file under it."""
    if overwrite:
        return part.replace(wanted)
    for path in file_names.numbered(wanted):
        try:
            os.link(part, path)
        except FileExistsError:
            continue
        except OSError:
            # A file system without hard links: reserve the name, then take it.
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                continue
            return part.replace(path)
        part.unlink()
        return path
    raise SaveFailed(f"{wanted}: too many files of that name")
