"""Artifact downloads over HTTP, with ranges, conditional requests and safe file names."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import parse_qsl

from google.protobuf.message import Message

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.transcoding import HEADERS
from reelhaul_runtime import errors
from reelhaul_runtime.file_responses import ByteRange, File, build_response
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
# The parameters of a download, and their values.
_VALUES = {"disposition": ("", "attachment", "inline"), "redirect": ("true", "false")}


class TruncatedDownload(Exception):
    """Storage failed after the response had started; only an aborted connection can show it."""


@dataclass(frozen=True, slots=True)
class _Query:
    """The parameters of a download."""

    inline: bool = False
    #: Whether the client prefers a redirect to a signed link, or not; None: it does not say.
    redirect: bool | None = None


def is_download(scope: Scope) -> bool:
    """Return whether the request is GET or HEAD of /v1/artifacts/{artifact}:download."""
    return scope["method"] in ("GET", "HEAD") and _PATH.fullmatch(scope["raw_path"]) is not None


class ArtifactDownloads:
    """Serves the requests that ``is_download`` selects.

    With *redirect*, clients that do not say otherwise are redirected to signed links of storage.
    *resource_policy* says which pages may embed the files (Cross-Origin-Resource-Policy).
    """

    def __init__(
        self,
        storage: Upstream,
        statuses: StatusWriter,
        *,
        redirect: bool = False,
        resource_policy: str = "same-origin",
    ) -> None:
        self._storage, self._statuses = storage, statuses
        self._redirect_by_default = redirect
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
        query = _parse_query(scope["query_string"])
        metadata = HEADERS.to_metadata(scope["headers"])
        artifact = await self._get_artifact(_artifact_name(scope), metadata)
        file = _file_of(artifact, inline=query.inline)
        response = build_response(scope["method"], dict(scope["headers"]), file)
        headers = [*response.headers, self._resource_policy]
        redirect = self._redirect_by_default if query.redirect is None else query.redirect
        if response.status == 412:
            await self._send_failure(send, 412, ErrorReason.ETAG_MISMATCH, artifact, headers)
        elif response.status == 416:
            await self._send_failure(send, 416, ErrorReason.RANGE_INVALID, artifact, headers)
        elif response.content is not None and redirect:
            await self._redirect(artifact.name, query, metadata, send)
        elif response.content is None or not response.content.length:
            await _send_empty(send, response.status, headers)
        else:
            await self._copy(artifact.name, response.content, response.status, headers, metadata, send)

    async def _redirect(self, name: str, query: _Query, metadata: Metadata, send: Send) -> None:
        """Redirect to a signed link, from which the client gets the bytes, in ranges if it wants."""
        disposition = "inline" if query.inline else "attachment"
        request = storage_service_pb2.SignArtifactUrlRequest(name=name, disposition=disposition)
        response = await self._storage.unary(_call("SignArtifactUrl", request, metadata))
        url = storage_service_pb2.SignArtifactUrlResponse.FromString(response.message).url
        headers = [
            (b"location", url.encode()),
            # Whoever knows the link can read the file: no cache keeps it.
            (b"cache-control", b"private, no-store"),
            (b"content-length", b"0"),
        ]
        await _send_empty(send, 307, headers)

    async def _copy(
        self,
        name: str,
        byte_range: ByteRange,
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
        self, name: str, byte_range: ByteRange, metadata: Metadata
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


def _parse_query(query: bytes) -> _Query:
    """Return the parameters in *query*. Raises FieldError for unknown ones and wrong values."""
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, value in parameters:
        if name not in _VALUES:
            raise FieldError(name, "unknown parameter")
        if value not in _VALUES[name]:
            raise FieldError(name, f"must be {' or '.join(filter(None, _VALUES[name]))}")
    last = dict(parameters)
    redirect = last.get("redirect")
    return _Query(last.get("disposition") == "inline", None if redirect is None else redirect == "true")


def _file_of(artifact: artifact_pb2.Artifact, *, inline: bool) -> File:
    file_name = artifact.file_name or artifact.name.rpartition("/")[2]
    return File(file_name, artifact.media_type, artifact.size_bytes, _etag(artifact), inline)


def _etag(artifact: artifact_pb2.Artifact) -> bytes:
    """Return the ETag of the content. Artifact.etag also changes with the labels, so it does not fit."""
    digest = artifact.checksums.sha256.hex()
    return f'"{digest}"'.encode() if digest else artifact.etag.encode()


async def _send_empty(send: Send, status: int, headers: list[Header]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
