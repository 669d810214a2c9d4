"""Artifact downloads over HTTP, with safe types and file names."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from functools import partial
from urllib.parse import parse_qsl, quote

from google.protobuf.message import Message

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2
from reelhaul_gateway.content import Content, send_content
from reelhaul_gateway.transcoding import HEADERS
from reelhaul_runtime.rpc.policy import max_deadline_seconds
from reelhaul_transcoding.errors import FieldError, TranscodingError
from reelhaul_transcoding.http.asgi import Header, Receive, Scope, Send
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
# A file that is shown in a browser loads nothing else and runs nothing.
_CONTENT_SECURITY_POLICY = b"default-src 'none'; media-src 'self'; img-src 'self'; sandbox"


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
        etag = _etag(artifact)
        headers = [*_response_headers(artifact, etag, inline=inline), self._resource_policy]
        read = partial(self._read, artifact.name, metadata)
        content = Content(artifact.name, artifact.size_bytes, etag, headers, read)
        await send_content(scope, send, content, self._statuses)

    async def _read(
        self, name: str, metadata: Metadata, offset: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        request = storage_service_pb2.ReadArtifactRequest(name=name, read_offset=offset, read_limit=length)
        async for message in self._storage.stream(_call("ReadArtifact", request, metadata)):
            if content := storage_service_pb2.ReadArtifactResponse.FromString(message).content:
                yield content

    async def _get_artifact(self, name: str, metadata: Metadata) -> artifact_pb2.Artifact:
        request = storage_service_pb2.GetArtifactRequest(name=name)
        response = await self._storage.unary(_call("GetArtifact", request, metadata))
        return artifact_pb2.Artifact.FromString(response.message)


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
