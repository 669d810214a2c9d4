"""One server, seen from a program."""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from google.protobuf import json_format
from google.protobuf.message import Message

from reelhaul.backoff import LONGEST_SECONDS, Backoff
from reelhaul.downloads.v1 import download_pb2, download_service_pb2
from reelhaul.rest import _errors, _save, _watch
from reelhaul.rest._errors import CallFailed

DEFAULT_SERVER = "http://127.0.0.1:8080"

# A probe may take a minute (the policies' max_deadline); nothing that is one answer takes longer.
_TIMEOUT = httpx.Timeout(65, connect=5)
_TRIES = 4

M = TypeVar("M", bound=Message)
_Query = str | int | float | bool | list[str] | None


class Client:
    """Calls the JSON API of the gateway at *server*, a URL or host:port.

    Every method raises CallFailed. What is safe to repeat is tried again for some seconds
    while the server does not answer: creating too, under one Idempotency-Key.
    """

    def __init__(self, server: str = DEFAULT_SERVER) -> None:
        self.server = (server if "://" in server else f"http://{server}").rstrip("/")
        # A proxy in the environment leads to the world, not to this machine.
        self._http = httpx.Client(
            base_url=self.server, timeout=_TIMEOUT, trust_env=not _is_local(self.server)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def create(self, request: Mapping[str, Any]) -> download_pb2.Download:
        """Start a download; *request* is a CreateDownloadRequest as JSON. Committed when answered."""
        key = str(uuid.uuid4())
        return self._call(
            download_pb2.Download(),
            "POST",
            "/api/v1/download",
            body=request,
            headers={"Idempotency-Key": key},
        )

    def get(self, job_id: str) -> download_pb2.Download:
        """How a download stands."""
        return self._call(download_pb2.Download(), "GET", f"/api/v1/status/{_segment(job_id)}")

    def list(self, **query: _Query) -> download_service_pb2.ListDownloadsResponse:
        """A page of downloads; *query* is a ListDownloadsRequest."""
        answer = download_service_pb2.ListDownloadsResponse()
        return self._call(answer, "GET", "/api/v1/jobs", query=query)

    def info(self, **query: _Query) -> download_service_pb2.GetInfoResponse:
        """What a URL holds, without downloading it; *query* is a GetInfoRequest."""
        answer = download_service_pb2.GetInfoResponse()
        return self._call(answer, "GET", "/api/v1/info", query=query)

    def cancel(self, job_id: str, reason: str = "") -> download_pb2.Download:
        """Cancel a download for good."""
        path = f"/api/v1/cancel/{_segment(job_id)}"
        return self._call(download_pb2.Download(), "POST", path, body={"reason": reason} if reason else {})

    def stop_recording(self, job_id: str) -> download_pb2.Download:
        """End a recording of what is live now, and keep it. STATE_CONFLICT where nothing is recorded."""
        path = f"/api/v1/stop_recording/{_segment(job_id)}"
        return self._call(download_pb2.Download(), "POST", path, body={})

    def retry(self, job_id: str) -> download_pb2.Download:
        """Try a FAILED or CANCELLED download again."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        path = f"/api/v1/retry/{_segment(job_id)}"
        return self._call(download_pb2.Download(), "POST", path, body={}, headers=headers)

    def watch(self, job_id: str, *, patience: float = 120) -> Iterator[_watch.Event]:
        """What happens to a download, a snapshot first, until it is completed or failed.

        A broken connection is taken up again where it was; *patience* is how many seconds
        without an answer it is tried for.
        """
        return _watch.watch(self._http, _segment(job_id), patience)

    def save(
        self,
        file: download_pb2.File,
        folder: Path,
        *,
        overwrite: bool = False,
        received: _save.Received = _save.nothing,
    ) -> _save.Saved:
        """Save *file* into *folder*, verified; an interrupted one is taken up where it was.

        Another file of that name is kept, and ours numbered, unless *overwrite*. *received*
        is told the bytes there are so far. Raises SaveFailed too.
        """
        return _save.save(self._http, file, folder, overwrite, received)

    def _call(
        self,
        answer: M,
        method: str,
        path: str,
        *,
        query: Mapping[str, _Query] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> M:
        params = {name: value for name, value in (query or {}).items() if value}
        request = self._http.build_request(method, path, params=params, json=body, headers=headers)
        response = self._sent(request)
        try:
            json_format.ParseDict(response.json(), answer, ignore_unknown_fields=True)
        except (ValueError, json_format.ParseError) as error:
            raise CallFailed("INTERNAL", "", f"{self.server} gave no answer of a Reelhaul gateway") from error
        return answer

    def _sent(self, request: httpx.Request) -> httpx.Response:
        backoff = Backoff()
        for tries in range(1, _TRIES + 1):
            try:
                response = self._http.send(request)
            except httpx.HTTPError as error:
                failure = _errors.unreachable(self.server, error)
            else:
                if response.is_success:
                    return response
                failure = _errors.of_response(response)
            if tries == _TRIES or not failure.transient:
                break
            delay = max(backoff.next_delay(), failure.retry_seconds or 0)
            time.sleep(min(delay, LONGEST_SECONDS))
        raise failure


def _segment(job_id: str) -> str:
    """*job_id* as one segment of a path; jobs/{id} is taken too."""
    return quote(job_id.strip().removeprefix("jobs/"), safe="")


def _is_local(server: str) -> bool:
    host = httpx.URL(server).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
