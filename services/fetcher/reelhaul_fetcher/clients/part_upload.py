"""Part upload: sends a file straight to S3, in parallel parts, to URLs that storage has signed.

Whoever knows such a URL may write to it: no message and no log contains one.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from reelhaul.backoff import Backoff
from reelhaul.storage.v1 import upload_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

# Parts of one file that are sent at the same time.
_PARALLEL_PARTS = 4
# Of one part, before storage is asked again for the state of the upload.
_MAX_TRIES = 4
_MAX_RETRY_AFTER_SECONDS = 30.0
# Of a response, and of each chunk on its way.
_TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=None)
_CHUNK_BYTES = 512 * 1024
# S3's errors that a repetition of the same request may cure, beside 5xx:
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_RETRYABLE_CODES = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown"})
_ERROR_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_MAX_ERROR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Part:
    """*size* bytes of a file; they may be more than fit into memory."""

    path: Path
    offset: int
    size: int

    def content_md5(self) -> str:
        """Return the Content-MD5 of the part (RFC 1864). Blocks."""
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self._chunks():
            digest.update(self._read(chunk))
        return base64.b64encode(digest.digest()).decode()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the part in chunks."""
        for chunk in self._chunks():
            yield await asyncio.to_thread(self._read, chunk)

    def _chunks(self) -> Iterator[range]:
        end = self.offset + self.size
        for begin in range(self.offset, end, _CHUNK_BYTES):
            yield range(begin, min(begin + _CHUNK_BYTES, end))

    def _read(self, chunk: range) -> bytes:
        # Opened for each chunk: a thread that still reads when the upload is cancelled uses no closed file.
        with self.path.open("rb") as file:
            file.seek(chunk.start)
            return file.read(len(chunk))


class PartUploader:
    """Sends files to S3 with *client*."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, ca_file: Path | None = None) -> AsyncIterator[PartUploader]:
        """Hold connections until the block exits; *ca_file* has certificates to trust beside the usual."""
        tls = httpx.create_ssl_context(trust_env=False)
        if ca_file is not None:
            tls.load_verify_locations(ca_file)
        # The environment's proxies are ignored: those are for the sites.
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, verify=tls) as client:
            yield cls(client)

    async def send(
        self,
        path: Path,
        upload: upload_pb2.Upload,
        etags: MutableMapping[int, str],
        on_progress: Callable[[int], None],
    ) -> None:
        """Send the parts of *path* that have no entry in *etags*; add the ETag of each to it.

        *on_progress* is called with the bytes that S3 has confirmed. Raises STORAGE_UNAVAILABLE, after which
        the upload's present state should be requested: its URLs may have expired.
        """
        numbers = iter([number for number in range(1, len(upload.part_urls) + 1) if number not in etags])

        def on_part(number: int, etag: str) -> None:
            etags[number] = etag
            on_progress(sum(_part_size(upload, number) for number in etags))

        senders = [
            asyncio.create_task(self._send_parts(path, upload, numbers, on_part))
            for _ in range(_PARALLEL_PARTS)
        ]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.wait(senders)

    async def _send_parts(
        self,
        path: Path,
        upload: upload_pb2.Upload,
        numbers: Iterator[int],
        on_part: Callable[[int, str], None],
    ) -> None:
        for number in numbers:
            part = _Part(path, (number - 1) * upload.part_size, _part_size(upload, number))
            on_part(number, await self._send_with_retries(upload.part_urls[number - 1], part))

    async def _send_with_retries(self, url: str, part: _Part) -> str:
        """Send *part*; return its ETag."""
        md5 = await asyncio.to_thread(part.content_md5)
        headers = {"content-length": str(part.size), "content-md5": md5}
        backoff, tries = Backoff(jitter=0.5), 0
        while True:
            tries, retryable, longer = tries + 1, True, 0.0
            try:
                response = await self._client.put(url, content=part.stream(), headers=headers)
            except httpx.TransportError as error:
                failure = _unavailable(f"S3 does not answer ({type(error).__name__})")
                # That took long already: whoever watches the upload should hear of it.
                retryable = not isinstance(error, httpx.TimeoutException)
            else:
                if response.is_success and (etag := response.headers.get("etag")):
                    return str(etag)
                failure = _failure_of(response)
                retryable, longer = _is_retryable(response), _retry_after(response)
            if not retryable or tries == _MAX_TRIES:
                raise failure
            await asyncio.sleep(max(backoff.next_delay(), longer))


def _part_size(upload: upload_pb2.Upload, number: int) -> int:
    return min(upload.part_size, upload.total_size - (number - 1) * upload.part_size)


def _error_code(response: httpx.Response) -> str:
    match = _ERROR_CODE.search(response.content[:_MAX_ERROR_BYTES].decode(errors="replace"))
    return match[1] if match else ""


def _is_retryable(response: httpx.Response) -> bool:
    return (
        response.status_code in (408, 429)
        or response.is_server_error
        or _error_code(response) in _RETRYABLE_CODES
    )


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds of Retry-After, within limits; 0 without one. Dates are ignored."""
    value = response.headers.get("retry-after", "")
    return min(float(value), _MAX_RETRY_AFTER_SECONDS) if re.fullmatch(r"\d{1,6}", value) else 0.0


def _failure_of(response: httpx.Response) -> ReelhaulError:
    code = _error_code(response)
    return _unavailable(f"S3 refused a part with {response.status_code}{f' {code}' if code else ''}")


def _unavailable(text: str) -> ReelhaulError:
    return ReelhaulError(
        ErrorReason.STORAGE_UNAVAILABLE,
        text,
        metadata={"backend": "s3"},
        retry_delay=timedelta(seconds=2),
    )
