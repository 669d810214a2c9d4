"""Artifact downloads over HTTP, with ranges, conditional requests and safe file names."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from google.protobuf.message import Message

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.transcoding import HEADERS
from reelhaul_runtime import errors
from reelhaul_runtime.rpc.policy import max_deadline_seconds
from reelhaul_transcoding.errors import FieldError, TranscodingError
from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send, send_response
from reelhaul_transcoding.http.cancellation import CancelScope
from reelhaul_transcoding.http.headers import Metadata
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.routing.percent import percent_decode
from reelhaul_transcoding.upstream import Call, Upstream, UpstreamError

_PATH = re.compile(rb"/v1/artifacts/([^/:]+):download")
_SERVICE = "/reelhaul.storage.v1.StorageService/"
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;\s*[\w-]+=[\w.+-]+)*", re.ASCII)
# Types that a browser shows without running anything.
_INLINE_TYPE = re.compile(
    r"(?:video|audio)/[\w.+-]+|image/(?!svg)[\w.+-]+|text/(?:plain|vtt)|application/json"
)
_UNSAFE_IN_FILE_NAME = re.compile(r'[^\x20-\x7e]|["\\%]')
_RANGE = re.compile(rb"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.IGNORECASE)
_ETAGS = re.compile(rb'(W/)?("[^"]*")')
# A file that is shown in a browser loads nothing else and runs nothing.
_CONTENT_SECURITY_POLICY = b"default-src 'none'; media-src 'self'; img-src 'self'; sandbox"


class TruncatedDownload(Exception):
    """Storage failed after the response had started; only an aborted connection can show it."""


class _RangeNotSatisfiable(Exception):
    """The range starts after the end of the file: 416."""


@dataclass(frozen=True, slots=True)
class _ByteRange:
    """A range of a file, or all of it."""

    start: int
    length: int
    #: Whether the client asked for a range: the status is 206, not 200.
    partial: bool


def is_download(scope: Scope) -> bool:
    """Return whether the request is GET or HEAD of /v1/artifacts/{artifact}:download."""
    return scope["method"] in ("GET", "HEAD") and _PATH.fullmatch(scope["raw_path"]) is not None


class ArtifactDownloads:
    """Serves the requests that ``is_download`` selects.

    *resource_policy* says which pages may embed the files (Cross-Origin-Resource-Policy).
    """

    def __init__(
        self, storage: Upstream, statuses: StatusWriter, *, resource_policy: str = "same-origin"
    ) -> None:
        self._storage, self._statuses = storage, statuses
        self._resource_policy: Header = (b"cross-origin-resource-policy", resource_policy.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        try:
            async with CancelScope(receive):
                await self._respond(scope, send)
        except UpstreamError as error:
            await self._statuses.send_status(send, error.status, HEADERS.to_headers(error.metadata))
        except TranscodingError as error:
            await self._statuses.send_error(send, error)

    async def _respond(self, scope: Scope, send: Send) -> None:
        inline = _parse_disposition(scope["query_string"])
        metadata = HEADERS.to_metadata(scope["headers"])
        artifact = await self._get_artifact(_artifact_name(scope), metadata)
        request_headers: Mapping[bytes, bytes] = dict(scope["headers"])
        etag = _etag(artifact)
        headers = [*_response_headers(artifact, etag, inline=inline), self._resource_policy]
        if b"if-match" in request_headers and not _lists_etag(request_headers[b"if-match"], etag, weak=False):
            await self._send_failure(send, 412, ErrorReason.ETAG_MISMATCH, artifact, headers)
        elif _lists_etag(request_headers.get(b"if-none-match"), etag, weak=True):
            await _send_empty(send, 304, headers)
        elif scope["method"] == "HEAD":
            await _send_empty(send, 200, [*headers, _content_length(artifact.size_bytes)])
        else:
            await self._respond_content(artifact, request_headers, etag, headers, metadata, send)

    async def _respond_content(
        self,
        artifact: artifact_pb2.Artifact,
        request_headers: Mapping[bytes, bytes],
        etag: bytes,
        headers: list[Header],
        metadata: Metadata,
        send: Send,
    ) -> None:
        size = artifact.size_bytes
        try:
            byte_range = _parse_range(request_headers, size, etag)
        except _RangeNotSatisfiable:
            content_range = (b"content-range", f"bytes */{size}".encode())
            await self._send_failure(send, 416, ErrorReason.RANGE_INVALID, artifact, [content_range])
            return
        headers = [*headers, _content_length(byte_range.length)]
        if byte_range.partial:
            last = byte_range.start + byte_range.length - 1
            headers.append((b"content-range", f"bytes {byte_range.start}-{last}/{size}".encode()))
        status = 206 if byte_range.partial else 200
        if not byte_range.length:
            await _send_empty(send, status, headers)
            return
        await self._copy(artifact.name, byte_range, status, headers, metadata, send)

    async def _copy(
        self,
        name: str,
        byte_range: _ByteRange,
        status: int,
        headers: list[Header],
        metadata: Metadata,
        send: Send,
    ) -> None:
        remaining = byte_range.length
        async with aclosing(self._read(name, byte_range, metadata)) as chunks:
            async for chunk in chunks:
                if remaining == byte_range.length:
                    # Starts with the first bytes: an earlier failure still sets the status.
                    await send({"type": "http.response.start", "status": status, "headers": headers})
                remaining -= len(chunk)
                if remaining < 0:
                    raise TruncatedDownload(f"{name}: storage sent more bytes than requested")
                await send({"type": "http.response.body", "body": chunk, "more_body": remaining > 0})
        if remaining:
            raise TruncatedDownload(f"{name}: {remaining} bytes are missing")

    async def _read(
        self, name: str, byte_range: _ByteRange, metadata: Metadata
    ) -> AsyncGenerator[bytes, None]:
        request = storage_service_pb2.ReadArtifactRequest(
            name=name, read_offset=byte_range.start, read_limit=byte_range.length
        )
        started = False
        try:
            async for message in self._storage.stream(_call("ReadArtifact", request, metadata)):
                if content := storage_service_pb2.ReadArtifactResponse.FromString(message).content:
                    started = True
                    yield content
        except UpstreamError as error:
            if started:
                raise TruncatedDownload(f"{name}: {error}") from error
            raise

    async def _get_artifact(self, name: str, metadata: Metadata) -> artifact_pb2.Artifact:
        request = storage_service_pb2.GetArtifactRequest(name=name)
        response = await self._storage.unary(_call("GetArtifact", request, metadata))
        return artifact_pb2.Artifact.FromString(response.message)

    async def _send_failure(
        self,
        send: Send,
        http_status: int,
        reason: ErrorReason.ValueType,
        artifact: artifact_pb2.Artifact,
        headers: list[Header],
    ) -> None:
        etag = _etag(artifact).decode()
        failure = errors.ReelhaulError(
            reason,
            f"{artifact.name} has {artifact.size_bytes} bytes and the ETag {etag}",
            metadata={"resource": artifact.name, "etag": etag, "sizeBytes": str(artifact.size_bytes)},
        )
        kept = [header for header in headers if header[0] in (b"content-range", b"etag", b"accept-ranges")]
        status = self._statuses.to_json(errors.to_status(failure))
        await send_response(send, http_status, kept, status)


def _call(method: str, request: Message, metadata: Metadata) -> Call:
    path = _SERVICE + method
    return Call(path, [request.SerializeToString()], False, metadata, max_deadline_seconds(path))


def _artifact_name(scope: Scope) -> str:
    match = _PATH.fullmatch(scope["raw_path"])
    assert match is not None
    try:
        return "artifacts/" + percent_decode(match[1].decode())
    except ValueError as error:
        raise FieldError("name", "must be percent-encoded UTF-8") from error


def _parse_disposition(query: bytes) -> bool:
    """Return whether ``disposition=inline`` is asked for. Raises FieldError for other parameters."""
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, value in parameters:
        if name != "disposition":
            raise FieldError(name, "unknown parameter")
        if value not in ("", "attachment", "inline"):
            raise FieldError(name, "must be attachment or inline")
    return any(value == "inline" for _, value in parameters)


def _parse_range(headers: Mapping[bytes, bytes], size: int, etag: bytes) -> _ByteRange:
    """Return the range of a file of *size* bytes that a request asks for.

    Several ranges, units other than bytes, and invalid values select the whole file, as
    RFC 9110 section 14 allows; so does an If-Range other than *etag*. Raises _RangeNotSatisfiable.
    """
    whole = _ByteRange(0, size, partial=False)
    value = headers.get(b"range")
    if value is None or headers.get(b"if-range", etag) != etag:
        return whole
    match = _RANGE.fullmatch(value.strip())
    if match is None or match[1] == match[2] == b"":
        return whole
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise _RangeNotSatisfiable
        return _ByteRange(size - length, length, partial=True)
    start, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return whole
    if start >= size:
        raise _RangeNotSatisfiable
    return _ByteRange(start, min(last, size - 1) - start + 1, partial=True)


def _lists_etag(header: bytes | None, etag: bytes, *, weak: bool) -> bool:
    """Return whether the If-Match or If-None-Match *header* lists *etag*, or any.

    The comparison is weak for If-None-Match and strong for If-Match, where a weak tag matches nothing
    (RFC 9110 section 13.1).
    """
    if header is None:
        return False
    return header.strip() == b"*" or any(
        listed == etag and (weak or not prefix) for prefix, listed in _ETAGS.findall(header)
    )


def _etag(artifact: artifact_pb2.Artifact) -> bytes:
    """Return the ETag of the content. Artifact.etag also changes with the labels, so it does not fit."""
    digest = artifact.checksums.sha256.hex()
    return f'"{digest}"'.encode() if digest else artifact.etag.encode()


def _response_headers(artifact: artifact_pb2.Artifact, etag: bytes, *, inline: bool) -> list[Header]:
    is_valid = _MEDIA_TYPE.fullmatch(artifact.media_type)
    media_type = artifact.media_type if is_valid else "application/octet-stream"
    file_name = artifact.file_name or artifact.name.rpartition("/")[2]
    return [
        (b"content-type", media_type.encode()),
        (b"content-disposition", _content_disposition(file_name, media_type, inline=inline)),
        (b"accept-ranges", b"bytes"),
        (b"etag", etag),
        (b"cache-control", b"private, no-cache"),
        (b"content-security-policy", _CONTENT_SECURITY_POLICY),
    ]


def _content_disposition(file_name: str, media_type: str, *, inline: bool) -> bytes:
    """Return Content-Disposition with *file_name* for old and new clients. RFC 6266.

    Types that a browser could run are never inline.
    """
    kind = "inline" if inline and _INLINE_TYPE.fullmatch(media_type) else "attachment"
    ascii_name = _UNSAFE_IN_FILE_NAME.sub("_", file_name)
    encoded = quote(file_name, safe="!#$&+-.^_`|~")
    return f"{kind}; filename=\"{ascii_name}\"; filename*=UTF-8''{encoded}".encode()


def _content_length(length: int) -> Header:
    return b"content-length", str(length).encode()


async def _send_empty(send: Send, status: int, headers: list[Header]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
