"""Artifact downloads over HTTP, with safe types and file names."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl

from google.protobuf.message import Message

from reelhaul.storage.v1 import artifact_pb2, storage_service_pb2
from reelhaul_gateway.content import Content, send_content
from reelhaul_gateway.transcoding import HEADERS
from reelhaul_runtime.file_responses import file_headers
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
#: The RPC whose policy says who may download.
METHOD = _SERVICE + "ReadArtifact"
#: The template of the path, for metrics.
ROUTE = "/v1/{name=artifacts/*}:download"
# The parameters of a download, and their values.
_VALUES = {"disposition": ("", "attachment", "inline"), "redirect": ("true", "false")}


@dataclass(frozen=True, slots=True)
class _Query:
    """The parameters of a download."""

    disposition: str = ""
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
        self._redirect = redirect
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
        etag = _etag(artifact)
        file_name = artifact.file_name or artifact.name.rpartition("/")[2]
        headers = file_headers(file_name, artifact.media_type, etag, inline=query.disposition == "inline")
        redirects = self._redirect if query.redirect is None else query.redirect
        content = Content(
            artifact.name,
            artifact.size_bytes,
            etag,
            [*headers, self._resource_policy],
            read=partial(self._read, artifact.name, metadata),
            sign_link=partial(self._sign_link, artifact.name, metadata, query) if redirects else None,
        )
        await send_content(scope, send, content, self._statuses)

    async def _read(
        self, name: str, metadata: Metadata, offset: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        request = storage_service_pb2.ReadArtifactRequest(name=name, read_offset=offset, read_limit=length)
        async for message in self._storage.stream(_call("ReadArtifact", request, metadata)):
            if content := storage_service_pb2.ReadArtifactResponse.FromString(message).content:
                yield content

    async def _sign_link(self, name: str, metadata: Metadata, query: _Query) -> str:
        request = storage_service_pb2.SignArtifactUrlRequest(name=name, disposition=query.disposition)
        response = await self._storage.unary(_call("SignArtifactUrl", request, metadata))
        return storage_service_pb2.SignArtifactUrlResponse.FromString(response.message).url

    async def _get_artifact(self, name: str, metadata: Metadata) -> artifact_pb2.Artifact:
        request = storage_service_pb2.GetArtifactRequest(name=name)
        response = await self._storage.unary(_call("GetArtifact", request, metadata))
        return artifact_pb2.Artifact.FromString(response.message)


def _call(method: str, request: Message, metadata: Metadata) -> Call:
    path = _SERVICE + method
    return Call(path, request.SerializeToString(), metadata, max_deadline_seconds(path))


def _artifact_name(scope: Scope) -> str:
    match = _PATH.fullmatch(scope["raw_path"])
    assert match is not None
    try:
        return "artifacts/" + percent_decode(match[1].decode())
    except ValueError as error:
        raise FieldError("name", "must be percent-encoded UTF-8") from error


def _parse_query(query: bytes) -> _Query:
    """Return the parameters in *query*. Raises FieldError for unknown ones and wrong values."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, value in pairs:
        if name not in _VALUES:
            raise FieldError(name, "unknown parameter")
        if value not in _VALUES[name]:
            raise FieldError(name, f"must be {' or '.join(filter(None, _VALUES[name]))}")
    parameters = dict(pairs)
    redirect = parameters.get("redirect")
    return _Query(parameters.get("disposition", ""), None if redirect is None else redirect == "true")


def _etag(artifact: artifact_pb2.Artifact) -> bytes:
    """Return the ETag of the content. Artifact.etag also changes with the labels, so it does not fit."""
    digest = artifact.checksums.sha256.hex()
    return f'"{digest}"'.encode() if digest else artifact.etag.encode()
