"""Archives over HTTP: the files of a download, of a batch or playlist, or of a filter, as one zip file."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl

from google.api import httpbody_pb2
from google.protobuf.message import Message

from reelhaul import file_names
from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul_gateway.content import Content, send_content
from reelhaul_gateway.transcoding import HEADERS
from reelhaul_runtime import errors
from reelhaul_runtime.file_responses import file_headers
from reelhaul_runtime.rpc.policy import max_deadline_seconds
from reelhaul_transcoding.errors import FieldError, TranscodingError
from reelhaul_transcoding.http.asgi import Receive, Scope, Send
from reelhaul_transcoding.http.cancellation import CancelScope
from reelhaul_transcoding.http.headers import Metadata
from reelhaul_transcoding.http.status import StatusWriter
from reelhaul_transcoding.upstream import Call, Upstream, UpstreamError

_ARTIFACTS_PATH = "/v1/artifacts:archive"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DOWNLOADS_PATH = re.compile(rf"/api/v1/(?:jobs/(?P<job>{_UUID})|batch/(?P<batch>{_UUID}))/archive")
_STORAGE = "/reelhaul.storage.v1.StorageService/"
#: The RPC whose policy says who may download archives.
METHOD = f"{_STORAGE}ArchiveArtifacts"
_JOBS = "/reelhaul.jobs.v1.JobService/"
_MAX_FILES = 1000
_PAGE_SIZE = 200


def is_archive(scope: Scope) -> bool:
    """Return whether the request is GET or HEAD of an archive."""
    path = scope["path"]
    is_path = path == _ARTIFACTS_PATH or _DOWNLOADS_PATH.fullmatch(path) is not None
    return scope["method"] in ("GET", "HEAD") and is_path


def route_of(scope: Scope) -> str:
    """Return the template of the path of a request that ``is_archive`` selects, for metrics."""
    match = _DOWNLOADS_PATH.fullmatch(scope["path"])
    if match is None:
        return _ARTIFACTS_PATH
    return "/api/v1/batch/{batch}/archive" if match["batch"] else "/api/v1/jobs/{job}/archive"


@dataclass(frozen=True, slots=True)
class _Selection:
    """The artifacts of an archive: those that match *filter*, or those with *names*."""

    #: Name in errors and logs.
    resource: str
    file_name: str
    filter: str = ""
    names: tuple[str, ...] = ()


class ArchiveDownloads:
    """Serves the requests that ``is_archive`` selects."""

    def __init__(self, jobs: Upstream, storage: Upstream, statuses: StatusWriter) -> None:
        self._jobs, self._storage, self._statuses = jobs, storage, statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        try:
            async with CancelScope(receive):
                await self._respond(scope, send)
        except UpstreamError as error:
            await self._statuses.send_status(send, error.status, HEADERS.to_headers(error.metadata))
        except TranscodingError as error:
            await self._statuses.send_error(send, error)
        except errors.ReelhaulError as error:
            await self._statuses.send_status(send, errors.to_status(error), [])

    async def _respond(self, scope: Scope, send: Send) -> None:
        metadata = HEADERS.to_metadata(scope["headers"])
        selection = await self._select(scope, metadata)
        request = storage_service_pb2.DescribeArchiveRequest(filter=selection.filter, names=selection.names)
        response = await self._storage.unary(_call(f"{_STORAGE}DescribeArchive", request, metadata))
        archive = storage_service_pb2.DescribeArchiveResponse.FromString(response.message)
        etag = archive.etag.encode()
        content = Content(
            selection.resource,
            archive.size_bytes,
            etag,
            file_headers(selection.file_name, "application/zip", etag, inline=False),
            read=partial(self._read, selection, archive.etag, metadata),
        )
        await send_content(scope, send, content, self._statuses)

    async def _read(
        self, selection: _Selection, etag: str, metadata: Metadata, offset: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        request = storage_service_pb2.ArchiveArtifactsRequest(
            filter=selection.filter,
            names=selection.names,
            etag=etag,
            read_offset=offset,
            read_limit=length,
        )
        async for message in self._storage.stream(_call(f"{_STORAGE}ArchiveArtifacts", request, metadata)):
            if data := httpbody_pb2.HttpBody.FromString(message).data:
                yield data

    async def _select(self, scope: Scope, metadata: Metadata) -> _Selection:
        match = _DOWNLOADS_PATH.fullmatch(scope["path"])
        parameters = _parse_query(scope["query_string"], with_artifacts=match is None)
        file_name = file_names.sanitize("".join(parameters.get("file_name", [])))
        if match is None:
            return _Selection(
                "artifacts",
                file_name or "artifacts.zip",
                filter="".join(parameters.get("filter", [])),
                names=tuple(parameters.get("names", [])),
            )
        if match["batch"]:
            names = await self._list_batch(match["batch"], metadata)
            resource, title = f"batch {match['batch']}", match["batch"]
        else:
            job = await self._get_job(f"jobs/{match['job']}", metadata)
            resource, title = job.name, job.media.title or match["job"]
            if job.kind == job_pb2.Job.Kind.EXPANSION:
                names = await self._list_batch(job.batch_id, metadata)
            else:
                names = [artifact.name for artifact in job.artifacts]
        if not names:
            raise errors.NotFound(f"a file of {resource}")
        if len(names) > _MAX_FILES:
            problem = f"has more than {_MAX_FILES} files; archive parts of it at {_ARTIFACTS_PATH}?filter="
            raise errors.FieldInvalid("batch_id", problem)
        return _Selection(resource, file_name or file_names.from_title(title, "zip"), names=tuple(names))

    async def _get_job(self, name: str, metadata: Metadata) -> job_pb2.Job:
        request = job_service_pb2.GetJobRequest(name=name)
        response = await self._jobs.unary(_call(f"{_JOBS}GetJob", request, metadata))
        return job_pb2.Job.FromString(response.message)

    async def _list_batch(self, batch: str, metadata: Metadata) -> list[str]:
        """Return the artifacts of the jobs of a batch or playlist; of a large one just too many."""
        request = job_service_pb2.ListJobsRequest(
            filter=f'batch_id = "{batch}" AND state = SUCCEEDED', page_size=_PAGE_SIZE
        )
        names: list[str] = []
        while len(names) <= _MAX_FILES:
            message = (await self._jobs.unary(_call(f"{_JOBS}ListJobs", request, metadata))).message
            page = job_service_pb2.ListJobsResponse.FromString(message)
            names += [artifact.name for job in page.jobs for artifact in job.artifacts]
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        return names


def _call(path: str, request: Message, metadata: Metadata) -> Call:
    return Call(path, request.SerializeToString(), metadata, max_deadline_seconds(path))


def _parse_query(query: bytes, *, with_artifacts: bool) -> Mapping[str, list[str]]:
    """Return the parameters in *query*: ``file_name``, and with *with_artifacts* ``filter`` and ``names``."""
    parameters: dict[str, list[str]] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name != "file_name" and (name not in ("filter", "names") or not with_artifacts):
            raise FieldError(name, "unknown parameter")
        if name in parameters and name != "names":
            raise FieldError(name, "may be sent once")
        parameters.setdefault(name, []).append(value)
    return parameters
