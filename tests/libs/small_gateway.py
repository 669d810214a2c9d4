"""A small HTTP server that answers as the gateway does, and can be told to break."""

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
    """A google.rpc.Status as the gateway writes it."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "reelhaul.dev"}
    details: list[dict[str, Any]] = [info]
    if violations:
        told = [{"field": f.replace("__", "."), "description": d} for f, d in violations.items()]
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": told})
    return {"code": code, "message": message, "details": details}


def progress(percent: float) -> dict[str, Any]:
    """A progress message of the watch."""
    told = {"stage": "DOWNLOADING", "progress_percent": percent, "downloaded_bytes": percent * 1000}
    return {"progress": {**told, "total_bytes": 100000, "speed": 1000000, "eta_seconds": 3}}


class Gateway(ThreadingHTTPServer):
    """What the server answers, to be changed by a test, and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: Watch messages of each connection in turn; a connection ends after its own.
        self.connections: list[list[dict[str, Any]]] = [
            [{"snapshot": RUNNING}, progress(50), {"completed": DONE}]
        ]
        #: (HTTP status, body) by "VERB path", in place of the usual answer.
        self.answers: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.job: dict[str, Any] = DONE
        self.content = CONTENT
        #: Bytes after which each download in turn breaks off.
        self.breaks: list[int] = []
        #: (VERB path?query, headers, body) of each request.
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.watched = threading.Event()
        self.cancelled = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self._note(None)
        if path.startswith("/api/v1/progress/"):
            self._stream()
        elif path.startswith("/v1/artifacts/"):
            self._file()
        elif path == "/api/v1/jobs":
            token = parse_qs(urlsplit(self.path).query).get("page_token")
            page = {"jobs": [DONE]} if token else {"jobs": [FAILED, DONE], "next_page_token": "t"}
            self._answer(path, page)
        elif path == "/api/v1/info":
            offered = {"format_id": "137", "container": "mp4", "quality": "1080p", "size_bytes": 1e6}
            self._answer(path, {"title": "A\x1b[2J video", "duration": 61, "formats": [offered]})
        else:
            self._answer(path, self.server.job)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self._note(json.loads(self.rfile.read(length) or b"{}"))
        path = urlsplit(self.path).path
        if path.startswith("/api/v1/cancel/"):
            self.server.cancelled.set()
            self._answer(path, CANCELLED)
        else:
            self._answer(path, {**RUNNING, "status": "QUEUED"})

    def _note(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((f"{self.command} {self.path}", headers, body))

    def _answer(self, path: str, usual: dict[str, Any]) -> None:
        told = self.server.answers.get(f"{self.command} {path}")
        code, answer = told.pop(0) if told else (200, usual)
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
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
            told = json.dumps({"job_id": JOB, "resume_token": f"t{number}", **message})
            self.wfile.write(f": ping\n\nid: t{number}\ndata: {told}\n\n".encode())

    def _file(self) -> None:
        start = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        rest = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            whole = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.breaks:
            rest = rest[: self.server.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(rest)


@contextmanager
def running_gateway() -> Iterator[Gateway]:
    """A gateway that listens while the block runs."""
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
