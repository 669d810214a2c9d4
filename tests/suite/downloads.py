"""JSON client that creates a download and watches it over SSE, reconnecting when the stream breaks."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.suite.suite import Suite, SuiteError

#: A message of WatchProgress as JSON.
Message = dict[str, Any]

_RECONNECT_DELAY = 0.2
# Requested from the server; after three missed heartbeats the client takes the stream for dead.
_HEARTBEAT_SECONDS = 3


def create_download(suite: Suite, url: str, **options: Any) -> str:
    """Create a download of *url* with the request fields *options*; return its id."""
    response = suite.http.post("/api/v1/download", json={"url": url, **options})
    assert response.status_code == 200, response.text
    return str(response.json()["job_id"])


def archived_digests(suite: Suite, path: str) -> list[str]:
    """Return the sorted SHA-256 of the files in the zip file at *path*, which Python finds intact."""
    response = suite.http.get(path).raise_for_status()
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        return sorted(hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist())


def watch_download(suite: Suite, job: str, seconds: float = 150) -> Iterator[Message]:
    """Yield the messages about *job* until it ends. Raises SuiteError if it does not end in *seconds*."""
    end, resume_token = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            for message in _stream(suite, job, resume_token):
                resume_token = message["resume_token"]
                yield message
                if message.keys() & {"completed", "failed"}:
                    return
                if time.monotonic() > end:
                    break
        except (httpx.TransportError, _StreamBroken):
            time.sleep(_RECONNECT_DELAY)
    raise SuiteError(f"{job} did not end in {seconds:.0f} s; the suite's log: {suite.log}")


def wait_for_end(suite: Suite, job: str, seconds: float = 150) -> Message:
    """Return the last message about *job*, which has its download as ``completed`` or ``failed``."""
    *_, last = watch_download(suite, job, seconds)
    return last


def wait_for_list(suite: Suite, job: str, seconds: float = 150) -> dict[str, Any]:
    """Return the download *job* of a list once all entries are jobs, whether these have ended or not."""

    def ended() -> dict[str, Any] | None:
        status: dict[str, Any] = suite.http.get(f"/api/v1/status/{job}").json()
        return status if status["status"] in ("SUCCEEDED", "FAILED", "CANCELLED") else None

    return suite.wait_for("end of the list", ended, seconds)


def download(suite: Suite, url: str, **options: Any) -> dict[str, Any]:
    """Download *url*; return the completed download with its files. Raises SuiteError if it fails."""
    last = wait_for_end(suite, create_download(suite, url, **options))
    if "completed" not in last:
        raise SuiteError(f"{url} was not downloaded: {json.dumps(last)}")
    completed: dict[str, Any] = last["completed"]
    return completed


def save_file(suite: Suite, file: dict[str, Any], folder: Path) -> Path:
    """Fetch *file* of a download from the gateway and save it in *folder*."""
    path = folder / "saved"
    path.write_bytes(suite.http.get(file["url"]).content)
    return path


def wait_until_downloading(suite: Suite, job: str, min_bytes: int) -> None:
    """Wait until *job* has received more than *min_bytes* of media. Raises SuiteError if it ends before."""
    for message in watch_download(suite, job):
        progress = message.get("progress") or message.get("snapshot") or {}
        if progress.get("downloaded_bytes", 0) > min_bytes:
            return
    raise SuiteError(f"{job} ended before it had {min_bytes} bytes")


class _StreamBroken(Exception):
    """The stream ended before the download did."""


def _stream(suite: Suite, job: str, resume_token: str) -> Iterator[Message]:
    query: dict[str, str | float] = {"heartbeat_seconds": _HEARTBEAT_SECONDS}
    if resume_token:
        query["resume_token"] = resume_token
    with suite.http.stream(
        "GET",
        f"/api/v1/progress/{job}",
        params=query,
        headers={"accept": "text/event-stream"},
        timeout=httpx.Timeout(10, read=3 * _HEARTBEAT_SECONDS),
    ) as response:
        if response.status_code in (502, 503, 504):
            raise _StreamBroken(response.status_code)
        response.raise_for_status()
        for event, data in _parse_events(response.iter_lines()):
            if event == "stream_error":
                raise _StreamBroken(data)
            yield json.loads(data)
    raise _StreamBroken("the stream ended")


def _parse_events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield type and data of each server-sent event; the default type is ``message``."""
    event, data = "message", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        if not line:
            if data:
                yield event, "\n".join(data)
            event, data = "message", []
        elif field == "event":
            event = value.strip()
        elif field == "data":
            data.append(value.removeprefix(" "))
