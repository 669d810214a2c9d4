"""FinalNewline: ends JSON with a newline for programs that print it, as a shell's prompt follows."""

from __future__ import annotations

from collections.abc import Awaitable, MutableMapping, Sequence
from typing import Any

from reelhaul_transcoding.http.asgi import Send

# What these print is read by people; libraries of programs send other names.
_PROGRAMS = (b"curl/", b"Wget/", b"HTTPie/", b"xh/")


def prints_responses(user_agents: Sequence[bytes]) -> bool:
    """Return whether the program that the values of User-Agent name prints responses as they are."""
    return bool(user_agents) and user_agents[0].startswith(_PROGRAMS)


class FinalNewline:
    """A ``send`` that ends JSON responses with a newline, unless they are streams or compressed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_json = False

    def __call__(self, event: MutableMapping[str, Any]) -> Awaitable[None]:
        if event["type"] == "http.response.start":
            headers = dict(event["headers"])
            length = int(headers.get(b"content-length", b"0"))
            is_json = headers.get(b"content-type") == b"application/json"
            self._is_json = is_json and length > 0 and b"content-encoding" not in headers
            if self._is_json:
                longer = b"%d" % (length + 1)
                event["headers"] = [
                    (name, longer if name == b"content-length" else value) for name, value in event["headers"]
                ]
        elif self._is_json and not event.get("more_body"):
            event["body"] = event.get("body", b"") + b"\n"
        return self._send(event)
