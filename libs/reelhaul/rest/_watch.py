"""Watching a download over HTTP: server-sent events that survive disconnects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from google.protobuf import json_format

from reelhaul._core.errors import CallFailed, status_from_json
from reelhaul._core.resume import HEARTBEAT_SECONDS, MISSED_HEARTBEATS, ResumePosition
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import _errors

_TIMEOUT = httpx.Timeout(MISSED_HEARTBEATS * HEARTBEAT_SECONDS, connect=5)


@dataclass(frozen=True, slots=True)
class Event:
    """One message of the stream; ``kind`` is the name of the field that is set in its oneof ``event``.

    Kinds: snapshot, progress, state, completed, failed, heartbeat; and ``reconnecting``, which the
    client adds with an empty message.
    """

    kind: str
    message: WatchProgressResponse
    #: The message as the server wrote it.
    raw: dict[str, Any]


def watch(http: httpx.Client, job_id: str, retry_timeout: float) -> Iterator[Event]:
    """Yield the events of a download until it is completed or failed."""
    position = ResumePosition(retry_timeout)
    while True:
        try:
            for event in _read_stream(http, job_id, position.token):
                position.advance(event.message.resume_token)
                yield event
                if event.kind in ("completed", "failed"):
                    return
            failure = CallFailed("UNAVAILABLE", "the stream ended too early", reason="SERVICE_UNAVAILABLE")
        except CallFailed as error:
            failure = error
        delay = position.next_delay(failure)
        yield Event("reconnecting", WatchProgressResponse(), {})
        time.sleep(delay)


def _read_stream(http: httpx.Client, job_id: str, resume_token: str) -> Iterator[Event]:
    """Yield the events of one connection. Raises CallFailed, which is transient if the connection broke."""
    query = {"heartbeat_seconds": f"{HEARTBEAT_SECONDS:.0f}"}
    if resume_token:
        query["resume_token"] = resume_token
    headers = {"Accept": "text/event-stream"}
    path = f"/api/v1/progress/{job_id}"
    try:
        with http.stream("GET", path, params=query, headers=headers, timeout=_TIMEOUT) as response:
            if not response.is_success:
                response.read()
                raise _errors.from_response(response)
            for name, data in _parse_events(response.iter_lines()):
                yield _parse_message(name, data)
    except httpx.HTTPError as error:
        raise _errors.unreachable(str(http.base_url), error) from error


def _parse_events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield name and data of each event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    name, data = "", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "", []
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value


def _parse_message(name: str, data: str) -> Event:
    try:
        raw = json.loads(data)
        if name == "stream_error":
            raise CallFailed.from_status(status_from_json(raw.get("error", raw)))
        message = json_format.ParseDict(raw, WatchProgressResponse(), ignore_unknown_fields=True)
    except (ValueError, AttributeError, json_format.ParseError) as error:
        raise CallFailed("INTERNAL", "the stream contains something else than progress messages") from error
    return Event(message.WhichOneof("event") or "heartbeat", message, raw)
