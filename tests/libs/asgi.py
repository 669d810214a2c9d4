"""Requests to an ASGI application in this process, for tests that need no socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What an application answered."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Whether the application ended the body.
    whole: bool = False

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


async def request(
    app: Any,
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """*app*'s answer; the client stays until it is whole."""
    path, _, query = url.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    reply, unread, done = Reply(), [body], asyncio.Event()

    async def receive() -> dict[str, Any]:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(event: Mapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            reply.status = event["status"]
            reply.headers = {name.decode(): value.decode() for name, value in event["headers"]}
        else:
            reply.body += event.get("body", b"")
            reply.whole = not event.get("more_body", False)

    await app(scope, receive, send)
    return reply
