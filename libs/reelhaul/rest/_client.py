"""Client: the calls of the simple download API that programs and the command line need."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from google.protobuf import json_format
from google.protobuf.message import Message

from reelhaul._core.credentials import resolve_api_key
from reelhaul._core.errors import CallFailed
from reelhaul._core.loopback import is_loopback
from reelhaul._core.part_file import OnProgress, ignore_progress
from reelhaul._core.retries import Retries
from reelhaul.downloads.v1 import download_pb2, download_service_pb2
from reelhaul.rest import _errors, _save, _watch
from reelhaul.rest._keys import Keys
from reelhaul.rest._tenants import Tenants
from reelhaul.rest._webhooks import Webhooks
from reelhaul.system.v1 import system_service_pb2

DEFAULT_SERVER = "http://127.0.0.1:8080"

# The longest max_deadline that a policy gives to a unary method is a minute, for a probe.
_TIMEOUT = httpx.Timeout(65, connect=5)
_TRIES = 4
_MAX_RETRY_DELAY = 5.0
_CHILDREN_PAGE = 100

M = TypeVar("M", bound=Message)
_Query = str | int | float | bool | list[str] | None


class Client:
    """Calls the JSON API of the gateway at *server*, a URL or host:port.

    Use it as a context manager. Every method raises CallFailed. Every call is tried a few times while
    the server is unavailable, ``create`` included, under one Idempotency-Key. *api_key* is sent with each
    call to the gateway, and to no other server; by default it is REELHAUL_API_KEY of the environment, if that
    is set. A mistyped one is a ValueError.
    """

    def __init__(self, server: str = DEFAULT_SERVER, *, api_key: str | None = None) -> None:
        self.server = (server if "://" in server else f"http://{server}").rstrip("/")
        # A proxy of the environment leads to the internet, not to this machine.
        trust_env = not is_loopback(httpx.URL(self.server).host)
        # SSL_CERT_FILE names the authorities of a certificate of one's own, on this machine too.
        key = resolve_api_key(api_key)
        self._http = httpx.Client(
            base_url=self.server,
            auth=_KeyAuth(self.server, key) if key else None,
            timeout=_TIMEOUT,
            trust_env=trust_env,
            verify=httpx.create_ssl_context(),
        )

        self.keys = Keys(self._call)
        self.tenants = Tenants(self._call)
        self.webhooks = Webhooks(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def create(self, request: Mapping[str, Any]) -> download_pb2.Download:
        """Create a download; *request* is a CreateDownloadRequest in JSON. It is committed on return."""
        key = str(uuid.uuid4())
        return self._call(
            download_pb2.Download(),
            "POST",
            "/api/v1/download",
            body=request,
            headers={"Idempotency-Key": key},
        )

    def get(self, job_id: str) -> download_pb2.Download:
        """Return a download in its present state."""
        return self._call(download_pb2.Download(), "GET", f"/api/v1/status/{_path_segment(job_id)}")

    def list(self, **query: _Query) -> download_service_pb2.ListDownloadsResponse:
        """Return a page of downloads; *query* holds fields of ListDownloadsRequest."""
        response = download_service_pb2.ListDownloadsResponse()
        return self._call(response, "GET", "/api/v1/jobs", query=query)

    def list_children(self, playlist: download_pb2.Download) -> Iterator[download_pb2.Download]:
        """Yield the downloads of *playlist*'s entries, in its order."""
        token = ""
        while True:
            page = self.list(
                batch_id=playlist.batch_id, order="oldest", page_size=_CHILDREN_PAGE, page_token=token
            )
            yield from (job for job in page.jobs if job.job_id != playlist.job_id)
            if not (token := page.next_page_token):
                return

    def info(self, **query: _Query) -> download_service_pb2.GetInfoResponse:
        """Return what a URL offers, without a download; *query* holds fields of GetInfoRequest."""
        response = download_service_pb2.GetInfoResponse()
        return self._call(response, "GET", "/api/v1/info", query=query)

    def cancel(self, job_id: str, reason: str = "") -> download_pb2.Download:
        """Cancel a download."""
        path = f"/api/v1/cancel/{_path_segment(job_id)}"
        return self._call(download_pb2.Download(), "POST", path, body={"reason": reason} if reason else {})

    def stop_recording(self, job_id: str) -> download_pb2.Download:
        """End the recording of a live stream and keep it. Raises STATE_CONFLICT if there is none."""
        path = f"/api/v1/stop_recording/{_path_segment(job_id)}"
        return self._call(download_pb2.Download(), "POST", path, body={})

    def retry(self, job_id: str) -> download_pb2.Download:
        """Start a FAILED or CANCELLED download again."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        path = f"/api/v1/retry/{_path_segment(job_id)}"
        return self._call(download_pb2.Download(), "POST", path, body={}, headers=headers)

    def watch(self, job_id: str, *, retry_timeout: float = 120) -> Iterator[_watch.Event]:
        """Yield the events of a download, a snapshot first, until it is completed or failed.

        A broken connection is resumed where it was, until the server has not responded for
        *retry_timeout* seconds.
        """
        return _watch.watch(self._http, _path_segment(job_id), retry_timeout)

    def save(
        self,
        file: download_pb2.File,
        folder: Path,
        *,
        overwrite: bool = False,
        on_progress: OnProgress = ignore_progress,
    ) -> _save.Saved:
        """Save *file* into *folder*, verified; an interrupted download resumes, also in a later call.

        Without *overwrite*, another file with this name is kept and the new name is numbered.
        *on_progress* is called with the number of bytes so far. Raises SaveFailed too.
        """
        return _save.save(self._http, file, folder, overwrite, on_progress)

    def set_log_level(
        self, service: str, level: str, *, logger: str = "", seconds: float = 600
    ) -> system_service_pb2.SetLogLevelResponse:
        """Log from *level* (of LogLevel) on in all processes of *service* (empty: of all) for *seconds*."""
        body = {"service": service, "level": level, "logger": logger, "duration": f"{seconds}s"}
        response = system_service_pb2.SetLogLevelResponse()
        return self._call(response, "POST", "/v1:setLogLevel", body=body)

    def _call(
        self,
        message: M,
        method: str,
        path: str,
        *,
        query: Mapping[str, _Query] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> M:
        params = {name: value for name, value in (query or {}).items() if value}
        request = self._http.build_request(method, path, params=params, json=body, headers=headers)
        response = self._send(request)
        try:
            json_format.ParseDict(response.json(), message, ignore_unknown_fields=True)
        except (ValueError, json_format.ParseError) as error:
            raise CallFailed("INTERNAL", f"{self.server} is not a Reelhaul gateway") from error
        return message

    def _send(self, request: httpx.Request) -> httpx.Response:
        retries = Retries(tries=_TRIES, max_retry_delay=_MAX_RETRY_DELAY)
        while True:
            try:
                response = self._http.send(request)
            except httpx.HTTPError as error:
                failure = _errors.unreachable(self.server, error)
            else:
                if response.is_success:
                    return response
                failure = _errors.from_response(response)
            time.sleep(retries.next_delay(failure))


class _KeyAuth(httpx.Auth):
    """Sends the API key to the gateway only, not to a server that one of its responses names."""

    def __init__(self, server: str, api_key: str) -> None:
        self._origin, self._api_key = _origin(httpx.URL(server)), api_key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _path_segment(job_id: str) -> str:
    """Return *job_id* as one segment of a path; jobs/{id} is accepted too."""
    return quote(job_id.strip().removeprefix("jobs/"), safe="")
