"""Saving a file over HTTP: under a safe name, resumed by Range, kept only if verified.

The gateway may redirect a download to a signed link of another server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from reelhaul import file_names
from reelhaul._core.errors import CallFailed, SaveFailed, connection_lost
from reelhaul._core.loopback import is_loopback
from reelhaul._core.part_file import ATTEMPTS, OnProgress, PartFile, find_problem, os_errors_as_save_failed
from reelhaul._core.retries import Retries
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.rest import _errors

_TIMEOUT = httpx.Timeout(30, connect=5)
# Consecutive tries that bring no byte.
_TRIES = 6
_MAX_RETRY_DELAY = 30.0


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete and verified file."""

    path: Path
    size_bytes: int
    sha256: str


def save(http: httpx.Client, file: File, folder: Path, overwrite: bool, on_progress: OnProgress) -> Saved:
    """Save *file* into *folder*; a file that is there already, with the same content, is returned."""
    size, sha256 = int(file.size_bytes), file.sha256.lower()
    path = folder / file_names.sanitize_untrusted(file.name)
    part, problem = PartFile(path, size, sha256), ""
    with os_errors_as_save_failed(path):
        folder.mkdir(parents=True, exist_ok=True)
        if not overwrite and path.is_file() and not find_problem(path, size, sha256):
            on_progress(size)
            return Saved(path, size, sha256)
        for _ in range(ATTEMPTS):
            _receive(http, file.url, part, on_progress)
            problem = part.discard_if_damaged()
            if not problem:
                return Saved(part.publish(overwrite=overwrite), size, sha256)
    raise SaveFailed(f"{file.name}: {problem}")


def _receive(http: httpx.Client, url: str, part: PartFile, on_progress: OnProgress) -> None:
    """Receive bytes until *part* is complete, reconnecting as often as needed."""
    retries = Retries(tries=_TRIES, max_retry_delay=_MAX_RETRY_DELAY)
    while not part.is_complete():
        received = part.received()
        try:
            _read_response(http, url, part, on_progress)
            failure = connection_lost("the connection ended too early")
        except httpx.RequestError as error:
            failure = _errors.unreachable(str(error.request.url.copy_with(path="/", query=None)), error)
        except CallFailed as error:
            failure = error
        if part.received() > received:
            retries.reset()
        if not part.is_complete():
            time.sleep(retries.next_delay(failure))


@contextmanager
def _open(http: httpx.Client, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """Request *url*; follow one redirect, to a signed link, without what *http* sends to the gateway."""
    with http.stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
        if not response.has_redirect_location:
            yield response
            return
        try:
            link = response.url.join(response.headers["location"])
        except httpx.InvalidURL as error:
            raise CallFailed("INTERNAL", "the server redirects to an invalid URL") from error
    trust_env = not is_loopback(link.host)
    with (
        httpx.Client(timeout=_TIMEOUT, trust_env=trust_env) as plain,
        plain.stream("GET", link, headers=headers) as response,
    ):
        yield response


def _read_response(http: httpx.Client, url: str, part: PartFile, on_progress: OnProgress) -> None:
    """Append what one connection delivers to the part file. Raises CallFailed, httpx.HTTPError."""
    start = part.received()
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with _open(http, url, headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.path.unlink()
            raise connection_lost("the server has fewer bytes than were received")
        if not response.is_success:
            response.read()
            raise _errors.from_response(response)
        if start and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            start = 0
        with part.path.open("ab" if start else "wb") as out:
            # Chunks as they arrive: a buffer that is filled first would be lost with the connection.
            for chunk in response.iter_raw():
                out.write(chunk)
                start += len(chunk)
                on_progress(start)
                part.check_received(start)
            out.flush()
            os.fsync(out.fileno())
