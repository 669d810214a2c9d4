"""Files of the installation over HTTP: with ETag, compressed, and the same answer for every caller."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from reelhaul_transcoding.errors import MethodNotAllowed
from reelhaul_transcoding.http.asgi import Header, Scope, Send, accepts_gzip, send_response
from reelhaul_transcoding.http.status import StatusWriter

_GZIP_WBITS = 16 + zlib.MAX_WBITS
_METHODS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is and compressed."""

    content_type: bytes
    body: bytes
    gzipped: bytes
    #: Weak, since it is the same for both forms.
    etag: bytes

    @classmethod
    def compress(cls, content_type: bytes, body: bytes, level: int = -1) -> StaticFile:
        """Return the file of *body*, compressed at the *level* of zlib; -1 is its default."""
        etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()
        return cls(content_type, body, zlib.compress(body, level, wbits=_GZIP_WBITS), etag)


async def reject_method(scope: Scope, send: Send, statuses: StatusWriter) -> bool:
    """Answer a request that is neither GET nor HEAD with 405; return whether it was one."""
    if scope["method"] in _METHODS:
        return False
    await statuses.send_error(send, MethodNotAllowed(scope["method"], scope["path"], list(_METHODS)))
    return True


async def send_file(
    scope: Scope,
    send: Send,
    file: StaticFile,
    headers: Sequence[Header],
    *,
    cache_control: bytes = b"no-cache",
) -> None:
    """Answer with *file* and *headers*, or with 304 if the client has it.

    By default browsers ask each time, and get 304 until the server is upgraded.
    """
    request_headers = dict(scope["headers"])
    common: list[Header] = [
        (b"etag", file.etag),
        (b"cache-control", cache_control),
        (b"vary", b"accept-encoding"),
        # Browsers replace the headers of what they have by those of a 304.
        *headers,
    ]
    if _matches(request_headers.get(b"if-none-match", b""), file.etag):
        await send({"type": "http.response.start", "status": 304, "headers": common})
        await send({"type": "http.response.body", "body": b""})
        return
    body = file.body
    if accepts_gzip(request_headers.get(b"accept-encoding", b"")):
        body = file.gzipped
        common.append((b"content-encoding", b"gzip"))
    await send_response(send, 200, common, body, content_type=file.content_type)


def _matches(if_none_match: bytes, etag: bytes) -> bool:
    """Return whether the header names *etag*, by weak comparison. RFC 9110 section 13.1.2."""
    tags = {tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")}
    return b"*" in tags or etag.removeprefix(b"W/") in tags
