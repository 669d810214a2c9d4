"""A fake gateway for tests of the clients: an HTTP server whose responses and failures tests control."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

JOB = "01990000-0000-7000-8000-000000000001"
CONTENT = bytes(range(256)) * 4096
FILE = {
    "name": "A video.mp4",
    "kind": "VIDEO",
    "media_type": "video/mp4",
    "size_bytes": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "url": "/v1/artifacts/a:download",
}
RUNNING = {"job_id": JOB, "url": "https://a.example/v", "status": "RUNNING", "title": "A video"}
DONE = {**RUNNING, "status": "SUCCEEDED", "progress_percent": 100, "files": [FILE]}
CANCELLED = {
    **RUNNING,
    "status": "CANCELLED",
    "error": {"code": 1, "reason": "JOB_CANCELLED", "message": "cancelled at the terminal"},
}
FAILED = {
    **RUNNING,
    "status": "FAILED",
    "error": {"code": 5, "reason": "MEDIA_NOT_FOUND", "message": "the video was removed"},
}


def status(code: int, reason: str, message: str, **violations: str) -> dict[str, Any]:
    """Return a google.rpc.Status as the gateway writes it."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "reelhaul.dev"}
    details: list[dict[str, Any]] = [info]
    if violations:
        field_violations = [
            {"field": field.replace("__", "."), "description": description}
            for field, description in violations.items()
        ]
        details.append(
            {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": field_violations}
        )
    return {"code": code, "message": message, "details": details}


def progress(percent: float) -> dict[str, Any]:
    """Return a progress message of the watch stream."""
    return {
        "progress": {
            "stage": "DOWNLOADING",
            "progress_percent": percent,
            "downloaded_bytes": percent * 1000,
            "total_bytes": 100000,
            "speed": 1000000,
            "eta_seconds": 3,
        }
    }


class FakeGateway(ThreadingHTTPServer):
    """The server; tests set its responses and read the requests that it received."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: The watch messages of each connection in turn; a connection ends after its own.
        self.connections: list[list[dict[str, Any]]] = [
            [{"snapshot": RUNNING}, progress(50), {"completed": DONE}]
        ]
        #: (HTTP status, body) by "METHOD path", instead of the default response.
        self.responses: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.job: dict[str, Any] = DONE
        self.content = CONTENT
        #: The number of bytes after which each download in turn is aborted.
        self.truncate_after: list[int] = []
        #: Whether it honours the header Range.
        self.has_ranges = True
        #: Where downloads are redirected to; empty: nowhere.
        self.redirect_to = ""
        #: (METHOD path?query, headers, body) of each request.
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.watched = threading.Event()
        self.cancelled = threading.Event()

    @property
    def url(self) -> str:
        """The base URL of the server."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeGateway

    def log_message(self, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self._record(None)
        if path.startswith("/api/v1/progress/"):
            self._send_stream()
        elif path.startswith("/v1/artifacts/"):
            self._send_file()
        elif path == "/api/v1/jobs":
            token = parse_qs(urlsplit(self.path).query).get("page_token")
            page = {"jobs": [DONE]} if token else {"jobs": [FAILED, DONE], "next_page_token": "t"}
            self._send_json(path, page)
        elif path == "/api/v1/info":
            media_format = {"format_id": "137", "container": "mp4", "quality": "1080p", "size_bytes": 1e6}
            self._send_json(path, {"title": "A\x1b[2J video", "duration": 61, "formats": [media_format]})
        else:
            self._send_json(path, self.server.job)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self._record(json.loads(self.rfile.read(length) or b"{}"))
        path = urlsplit(self.path).path
        if path.startswith("/api/v1/cancel/"):
            self.server.cancelled.set()
            self._send_json(path, CANCELLED)
        else:
            self._send_json(path, {**RUNNING, "status": "QUEUED"})

    def _record(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((f"{self.command} {self.path}", headers, body))

    def _send_json(self, path: str, default: dict[str, Any]) -> None:
        responses = self.server.responses.get(f"{self.command} {path}")
        code, response = responses.pop(0) if responses else (200, default)
        body = json.dumps(response).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_stream(self) -> None:
        messages = self.server.connections.pop(0) if self.server.connections else [{"completed": DONE}]
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number, message in enumerate(messages):
            if "hang" in message:
                self.server.watched.set()
                self.server.cancelled.wait(10)
                continue
            if "error" in message:
                self.wfile.write(f"event: stream_error\ndata: {json.dumps(message['error'])}\n\n".encode())
                continue
            # As the gateway does, which escapes only what JSON requires.
            data = json.dumps({"job_id": JOB, "resume_token": f"t{number}", **message}, ensure_ascii=False)
            self.wfile.write(f": ping\n\nid: t{number}\ndata: {data}\n\n".encode())

    def _send_file(self) -> None:
        if self.server.redirect_to:
            self.send_response(307)
            self.send_header("Location", self.server.redirect_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        requested = self.headers.get("range", "bytes=0-") if self.server.has_ranges else "bytes=0-"
        start = int(requested.removeprefix("bytes=").rstrip("-"))
        content = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            size = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.truncate_after:
            content = content[: self.server.truncate_after.pop(0)]
            self.close_connection = True
        self.wfile.write(content)


@contextmanager
def running_gateway(tls: ssl.SSLContext | None = None) -> Iterator[FakeGateway]:
    """Run a fake gateway until the block exits, with HTTPS if it gets a context."""
    gateway = FakeGateway()
    if tls is not None:
        gateway.socket = tls.wrap_socket(gateway.socket, server_side=True)
    thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield gateway
    finally:
        gateway.cancelled.set()
        gateway.shutdown()
        thread.join()
        gateway.server_close()
