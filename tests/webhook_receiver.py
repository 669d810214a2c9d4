"""An endpoint of webhooks for tests: an HTTP or HTTPS server that records what it receives."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import standardwebhooks
import trustme


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def job(self) -> str:
        return str(self.event["data"]["job"]["name"])

    def verify(self, secret: str) -> None:
        """Verify the signature with the reference library. Raises WebhookVerificationError."""
        standardwebhooks.Webhook(secret).verify(self.body, dict(self.headers))


#: Returns the status and the headers of the response.
Respond = Callable[[Received], tuple[int, Mapping[str, str]]]


@dataclass
class Receiver:
    """The requests that were responded to, in order, and how the next is responded to."""

    url: str
    respond: Respond = lambda received: (204, {})
    received: list[Received] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def running_receiver(authority: trustme.CA | None = None, *names: str) -> Iterator[Receiver]:
    """Run a receiver at 127.0.0.1, by https with a certificate of *authority* for *names* if it is given."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            if len(body := self.rfile.read(length)) < length:
                return  # its sender was killed
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(self.path, headers, body)
            status, response_headers = receiver.respond(request)
            with receiver.lock:
                receiver.received.append(request)
            self.send_response(status)
            for name, value in response_headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            # The sender may have been killed.
            with suppress(ConnectionError):
                self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    host = names[0] if names else "127.0.0.1"
    receiver = Receiver(f"{scheme}://{host}:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
