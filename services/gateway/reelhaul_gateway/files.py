"""Files: artifact bytes over HTTP, with ranges, validators and a name to save them under."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from urllib.parse import parse_qsl

from google.protobuf.message import Message

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway import ranges
from reelhaul_gateway.transcoding import HEADERS
from reelhaul_runtime import errors
from reelhaul_runtime.rpc.policy import max_deadline_of
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.errors import Fault, FieldFault
from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send, respond
from reelhaul_transcoding.http.cancellation import CancelScope
from reelhaul_transcoding.http.headers import Metadata
from reelhaul_transcoding.routing.percent import decoded
from reelhaul_transcoding.upstream import Call, Upstream, UpstreamError

PATH = re.compile(rb"/v1/artifacts/([^/:]+):download")

_SERVICE = "/reelhaul.storage.v1.StorageService/"
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(?:\s*;\s*[\w-]+=[\w.+-]+)*", re.ASCII)
# A file is shown by itself: it may load nothing, and what it holds may run nothing.
_POLICY = b"default-src 'none'; media-src 'self'; img-src 'self'; sandbox"


class CutShort(Exception):
    """Storage broke off after the answer had begun; only a broken connection can tell it."""


class Files:
    """Serves GET and HEAD of /v1/artifacts/{artifact}:download."""

    def __init__(self, storage: Upstream, transcoder: Transcoder) -> None:
        self._storage, self._transcoder = storage, transcoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            async with CancelScope(receive):
                await self._answer(scope, send)
        except UpstreamError as error:
            await self._transcoder.refuse(send, error.status, HEADERS.headers(error.headers))
        except Fault as fault:
            await self._transcoder.refuse_fault(send, fault)

    async def _answer(self, scope: Scope, send: Send) -> None:
        inline = _inline(scope["query_string"])
        metadata = HEADERS.metadata(scope["headers"])
        artifact = await self._artifact(_name(scope), metadata)
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        etag = _etag(artifact)
        told = _headers(artifact, etag, inline=inline)
        if b"if-match" in headers and not ranges.names(headers[b"if-match"], etag):
            await self._refuse(send, 412, ErrorReason.ETAG_MISMATCH, artifact, told)
        elif ranges.names(headers.get(b"if-none-match"), etag):
            await _bare(send, 304, told)
        elif scope["method"] == "HEAD":
            await _bare(send, 200, [*told, _length(artifact.size_bytes)])
        else:
            await self._bytes(artifact, headers, etag, told, metadata, send)

    async def _bytes(
        self,
        artifact: artifact_pb2.Artifact,
        headers: Mapping[bytes, bytes],
        etag: bytes,
        told: list[Header],
        metadata: Metadata,
        send: Send,
    ) -> None:
        size = artifact.size_bytes
        try:
            part = ranges.asked(headers, size, etag)
        except ranges.Unsatisfiable:
            range_header = (b"content-range", f"bytes */{size}".encode())
            await self._refuse(send, 416, ErrorReason.RANGE_INVALID, artifact, [range_header])
            return
        told = [*told, _length(part.length)]
        if part.partial:
            last = part.start + part.length - 1
            told.append((b"content-range", f"bytes {part.start}-{last}/{size}".encode()))
        status = 206 if part.partial else 200
        if not part.length:
            await _bare(send, status, told)
            return
        await self._copied(artifact.name, part, status, told, metadata, send)

    async def _copied(
        self,
        name: str,
        part: ranges.Slice,
        status: int,
        told: list[Header],
        metadata: Metadata,
        send: Send,
    ) -> None:
        left = part.length
        async with aclosing(self._read(name, part, metadata)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                if left == part.length:
                    # Not before the first bytes are here: until then a failure has a status.
                    await send({"type": "http.response.start", "status": status, "headers": told})
                left -= len(chunk)
                if left < 0:
                    raise CutShort(f"{name}: more bytes than its size")
                await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
        if left:
            raise CutShort(f"{name}: {left} bytes are missing")

    async def _read(self, name: str, part: ranges.Slice, metadata: Metadata) -> AsyncIterator[bytes]:
        request = storage_service_pb2.ReadArtifactRequest(
            name=name, read_offset=part.start, read_limit=part.length
        )
        begun = False
        try:
            async for message in self._storage.stream(_call("ReadArtifact", request, metadata)):
                if content := storage_service_pb2.ReadArtifactResponse.FromString(message).content:
                    begun = True
                    yield content
        except UpstreamError as error:
            if begun:
                raise CutShort(f"{name}: {error}") from error
            raise

    async def _artifact(self, name: str, metadata: Metadata) -> artifact_pb2.Artifact:
        request = storage_service_pb2.GetArtifactRequest(name=name)
        answer = await self._storage.unary(_call("GetArtifact", request, metadata))
        return artifact_pb2.Artifact.FromString(answer.message)

    async def _refuse(
        self,
        send: Send,
        http_status: int,
        reason: ErrorReason.ValueType,
        artifact: artifact_pb2.Artifact,
        headers: list[Header],
    ) -> None:
        failure = errors.ReelhaulError(
            reason,
            f"{artifact.name} has {artifact.size_bytes} bytes and the ETag {_etag(artifact).decode()}",
            metadata={
                "resource": artifact.name,
                "etag": _etag(artifact).decode(),
                "sizeBytes": str(artifact.size_bytes),
            },
        )
        kept = [header for header in headers if header[0] in (b"content-range", b"etag", b"accept-ranges")]
        status = self._transcoder.statuses.json(errors.to_status(failure))
        await respond(send, http_status, kept, status)


def _call(method: str, request: Message, metadata: Metadata) -> Call:
    path = _SERVICE + method
    return Call(path, [request.SerializeToString()], False, metadata, max_deadline_of(path))


def _name(scope: Scope) -> str:
    found = PATH.fullmatch(scope["raw_path"])
    assert found is not None
    try:
        return "artifacts/" + decoded(found[1].decode())
    except ValueError as error:
        raise FieldFault("name", "is no UTF-8 in percent-encoding") from error


def _inline(query: bytes) -> bool:
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    for name, value in parameters:
        if name != "disposition":
            raise FieldFault(name, "there is no such parameter")
        if value not in ("", "attachment", "inline"):
            raise FieldFault(name, "must be attachment or inline")
    return any(value == "inline" for _, value in parameters)


def _etag(artifact: artifact_pb2.Artifact) -> bytes:
    """The ETag of the bytes: Artifact.etag changes with labels too, which are not told here."""
    digest = artifact.checksums.sha256.hex()
    return f'"{digest}"'.encode() if digest else artifact.etag.encode()


def _headers(artifact: artifact_pb2.Artifact, etag: bytes, *, inline: bool) -> list[Header]:
    named = _MEDIA_TYPE.fullmatch(artifact.media_type)
    media_type = artifact.media_type if named else "application/octet-stream"
    name = artifact.file_name or artifact.name.rpartition("/")[2]
    return [
        (b"content-type", media_type.encode()),
        (b"content-disposition", ranges.disposition(name, media_type, inline=inline)),
        (b"accept-ranges", b"bytes"),
        (b"etag", etag),
        (b"cache-control", b"private, no-cache"),
        (b"content-security-policy", _POLICY),
    ]


def _length(length: int) -> Header:
    return b"content-length", str(length).encode()


async def _bare(send: Send, status: int, headers: list[Header]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
