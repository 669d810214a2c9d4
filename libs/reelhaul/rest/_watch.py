"""Following a download: server-sent events that survive disconnects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from google.protobuf import json_format

from reelhaul.backoff import Backoff
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import _errors
from reelhaul.rest._errors import CallFailed

_HEARTBEAT_SECONDS = 5
# Three missed heartbeats mean a dead stream.
_TIMEOUT = httpx.Timeout(3 * _HEARTBEAT_SECONDS, connect=5)


@dataclass(frozen=True, slots=True)
class Event:
    """One message of the stream; ``kind`` is the name of its event field.

    Kinds: snapshot, progress, state, completed, failed, heartbeat, and of our own
    ``reconnecting``, whose message is empty.
    """

    kind: str
    message: WatchProgressResponse
    #: The message as the server wrote it.
    raw: dict[str, Any]


def watch(http: httpx.Client, job_id: str, patience: float) -> Iterator[Event]:
    """See Client.watch."""
    token, heard, backoff = "", time.monotonic(), Backoff(jitter=0.5)
    while True:
        try:
            for event in _connection(http, job_id, token):
                heard = time.monotonic()
                backoff.reset()
                token = event.message.resume_token or token
                yield event
                if event.kind in ("completed", "failed"):
                    return
            failure = CallFailed("UNAVAILABLE", "SERVICE_UNAVAILABLE", "the stream ended too early")
        except CallFailed as error:
            failure = error
        # A stream that reached the longest deadline may be resumed like a broken one.
        broken = failure.transient or failure.reason == "REQUEST_TIMED_OUT"
        if not broken or time.monotonic() - heard > patience:
            raise failure
        yield Event("reconnecting", WatchProgressResponse(), {})
        time.sleep(backoff.next_delay())


def _connection(http: httpx.Client, job_id: str, token: str) -> Iterator[Event]:
    """The events of one connection. CallFailed is transient where the connection broke."""
    query = {"heartbeat_seconds": str(_HEARTBEAT_SECONDS)}
    if token:
        query["resume_token"] = token
    headers = {"Accept": "text/event-stream"}
    path = f"/api/v1/progress/{job_id}"
    try:
        with http.stream("GET", path, params=query, headers=headers, timeout=_TIMEOUT) as response:
            if not response.is_success:
                response.read()
                raise _errors.of_response(response)
            for name, text in _events(response.iter_lines()):
                yield _parsed(name, text)
    except httpx.HTTPError as error:
        raise _errors.unreachable(str(http.base_url), error) from error


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each event, https://html.spec.whatwg.org/multipage/server-sent-events.html"""
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


def _parsed(name: str, text: str) -> Event:
    try:
        raw = json.loads(text)
        if name == "error":
            raise _errors.of_status(raw.get("error", raw))
        message = json_format.ParseDict(raw, WatchProgressResponse(), ignore_unknown_fields=True)
    except (ValueError, AttributeError, json_format.ParseError) as error:
        raise CallFailed("INTERNAL", "", "the stream holds what is no progress message") from error
    return Event(message.WhichOneof("event") or "heartbeat", message, raw)
