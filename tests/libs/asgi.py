"""ASGI test client: requests to an application in this process, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Response:
    """The response of an application."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Whether the application ended the body.
    complete: bool = False

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)


async def request(
    app: Any,
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a request to *app* and return its response; the client never disconnects."""
    path, _, query = url.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    response, unread, never = Response(), [body], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await never.wait()
        return {"type": "http.disconnect"}

    async def send(event: Mapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            response.status = event["status"]
            response.headers = {name.decode(): value.decode() for name, value in event["headers"]}
        else:
            response.body += event.get("body", b"")
            response.complete = not event.get("more_body", False)

    await app(scope, receive, send)
    return response
