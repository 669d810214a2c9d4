"""Following a download as a careful client does: over SSE, coming back where the stream broke."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.suite.suite import Suite, SuiteError

#: A message of WatchProgress, as JSON tells it.
Message = dict[str, Any]

_BACK_AFTER_SECONDS = 0.2
# Told to the server, and missed three times by the client: the stream is dead.
_HEARTBEAT_SECONDS = 3


def created(suite: Suite, url: str, **wishes: Any) -> str:
    """The id of a new download of *url*."""
    answer = suite.http.post("/api/v1/download", json={"url": url, **wishes})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_id"])


def watched(suite: Suite, job: str, seconds: float = 90) -> Iterator[Message]:
    """All that is told of *job* until its end. Raises SuiteError if that does not come in *seconds*."""
    end, position = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        try:
            for message in _stream(suite, job, position):
                position = message["resume_token"]
                yield message
                if message.keys() & {"completed", "failed"}:
                    return
                if time.monotonic() > end:
                    break
        except (httpx.TransportError, _Broken):
            time.sleep(_BACK_AFTER_SECONDS)
    raise SuiteError(f"{job} did not end in {seconds:.0f} s; the suite's log: {suite.log}")


def ended(suite: Suite, job: str, seconds: float = 90) -> Message:
    """The last that is told of *job*: its download under ``completed`` or ``failed``."""
    *_, last = watched(suite, job, seconds)
    return last


def completed(suite: Suite, url: str, **wishes: Any) -> dict[str, Any]:
    """What a new download of *url* came to, with its files. Raises SuiteError where it failed."""
    last = ended(suite, created(suite, url, **wishes))
    if "completed" not in last:
        raise SuiteError(f"{url} was not downloaded: {json.dumps(last)}")
    done: dict[str, Any] = last["completed"]
    return done


def saved(suite: Suite, file: dict[str, Any], folder: Path) -> Path:
    """*file* of a download, fetched as a client does, in *folder*."""
    path = folder / "saved"
    path.write_bytes(suite.http.get(file["url"]).content)
    return path


def until_downloading(suite: Suite, job: str, more_than_bytes: int) -> None:
    """Return when *job* has received *more_than_bytes* of its media. Raises SuiteError if it ends before."""
    for message in watched(suite, job):
        told = message.get("progress") or message.get("snapshot") or {}
        if told.get("downloaded_bytes", 0) > more_than_bytes:
            return
    raise SuiteError(f"{job} ended before it had {more_than_bytes} bytes")


def events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The events of an SSE body by its lines: (type, data), ``message`` where none is named."""
    kind, text = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            if text:
                yield kind, "\n".join(text)
            kind, text = "message", []
        elif name == "event":
            kind = value.strip()
        elif name == "data":
            text.append(value.removeprefix(" "))


class _Broken(Exception):
    """The stream ended before the download did; come back."""


def _stream(suite: Suite, job: str, position: str) -> Iterator[Message]:
    query: dict[str, str | float] = {"heartbeat_seconds": _HEARTBEAT_SECONDS}
    if position:
        query["resume_token"] = position
    patience = httpx.Timeout(10, read=3 * _HEARTBEAT_SECONDS)
    with suite.http.stream(
        "GET",
        f"/api/v1/progress/{job}",
        params=query,
        headers={"accept": "text/event-stream"},
        timeout=patience,
    ) as answer:
        if answer.status_code in (502, 503, 504):
            raise _Broken(answer.status_code)
        answer.raise_for_status()
        for kind, text in events(answer.iter_lines()):
            if kind == "error":
                raise _Broken(text)
            yield json.loads(text)
    raise _Broken("the stream ended")
