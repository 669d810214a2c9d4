"""A fake gateway: a small HTTP server that responds as the gateway does, and can be made to fail."""

from __future__ import annotations

import hashlib
import json
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
    """Return a google.rpc.Status in JSON as the gateway writes it."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "reelhaul.dev"}
    details: list[dict[str, Any]] = [info]
    if violations:
        invalid = [{"field": f.replace("__", "."), "description": d} for f, d in violations.items()]
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": invalid})
    return {"code": code, "message": message, "details": details}


def progress(percent: float) -> dict[str, Any]:
    """Return a progress message of a watch."""
    received = {"stage": "DOWNLOADING", "progress_percent": percent, "downloaded_bytes": percent * 1000}
    return {"progress": {**received, "total_bytes": 100000, "speed": 1000000, "eta_seconds": 3}}


class Gateway(ThreadingHTTPServer):
    """The server's responses, which a test may change, and the requests that it received."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: Watch messages of each connection in turn; a connection closes after its own.
        self.connections: list[list[dict[str, Any]]] = [
            [{"snapshot": RUNNING}, progress(50), {"completed": DONE}]
        ]
        #: (HTTP status, body) by "VERB path", in place of the usual responses.
        self.responses: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.job: dict[str, Any] = DONE
        self.content = CONTENT
        #: Bytes after which each download in turn is cut off.
        self.cuts: list[int] = []
        #: (VERB path?query, headers, body) of each request.
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.watched = threading.Event()
        self.cancelled = threading.Event()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def log_message(self, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self._record(None)
        if path.startswith("/api/v1/progress/"):
            self._send_events()
        elif path.startswith("/v1/artifacts/"):
            self._send_file()
        elif path == "/api/v1/jobs":
            token = parse_qs(urlsplit(self.path).query).get("page_token")
            page = {"jobs": [DONE]} if token else {"jobs": [FAILED, DONE], "next_page_token": "t"}
            self._respond(path, page)
        elif path == "/api/v1/info":
            stream = {"format_id": "137", "container": "mp4", "quality": "1080p", "size_bytes": 1e6}
            self._respond(path, {"title": "A\x1b[2J video", "duration": 61, "formats": [stream]})
        else:
            self._respond(path, self.server.job)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self._record(json.loads(self.rfile.read(length) or b"{}"))
        path = urlsplit(self.path).path
        if path.startswith("/api/v1/cancel/"):
            self.server.cancelled.set()
            self._respond(path, CANCELLED)
        else:
            self._respond(path, {**RUNNING, "status": "QUEUED"})

    def _record(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((f"{self.command} {self.path}", headers, body))

    def _respond(self, path: str, usual: dict[str, Any]) -> None:
        responses = self.server.responses.get(f"{self.command} {path}")
        code, response = responses.pop(0) if responses else (200, usual)
        body = json.dumps(response).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_events(self) -> None:
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
                self.wfile.write(f"event: error\ndata: {json.dumps(message['error'])}\n\n".encode())
                continue
            data = json.dumps({"job_id": JOB, "resume_token": f"t{number}", **message})
            self.wfile.write(f": ping\n\nid: t{number}\ndata: {data}\n\n".encode())

    def _send_file(self) -> None:
        start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        rest = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            whole = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.cuts:
            rest = rest[: self.server.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(rest)


@contextmanager
def running_gateway() -> Iterator[Gateway]:
    """Run a fake gateway until the block exits."""
    gateway = Gateway()
    thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield gateway
    finally:
        gateway.cancelled.set()
        gateway.shutdown()
        thread.join()
        gateway.server_close()
