"""A real service for tests of the supervisor: HTTP on loopback, with a journal of its life.

    python supervised_service.py NAME PORT JOURNAL [--refuse] [--ignore-term] [--drain-slowly] [--overloaded]

It appends ``NAME started PID``, ``NAME probed`` (for its health) and ``NAME ended`` to
JOURNAL; after GET /hang it answers nothing any more; GET /child starts a child in its own session
and answers with the child's process id.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

name, port, journal = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])


def note(text: str) -> None:
    with journal.open("a") as file:
        file.write(f"{name} {text}\n")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        response = "ok"
        if self.path == "/healthz":
            note("probed")
        if self.path == "/hang":
            time.sleep(600)
        if self.path == "/child":
            child = subprocess.Popen(["sleep", "600"], start_new_session=True)
            response = str(child.pid)
        self.send_response(503 if "--overloaded" in sys.argv and self.path == "/healthz" else 200)
        self.end_headers()
        self.wfile.write(response.encode())

    def log_message(self, *_: object) -> None:
        pass


def leave(*_: object) -> None:
    if "--drain-slowly" in sys.argv:
        server.socket.close()
        time.sleep(2)
    note("ended")
    os._exit(0)


if "--refuse" in sys.argv:
    print("REELHAUL_X: wrong", file=sys.stderr)
    sys.exit(2)
server = HTTPServer(("127.0.0.1", port), Handler)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "--ignore-term" in sys.argv else leave)
note(f"started {os.getpid()}")
print(
    json.dumps(
        {"time": "2026-01-02T03:04:05.678+00:00", "level": "INFO", "service": name, "message": "hello"}
    ),
    file=sys.stderr,
)
print("a plain line", file=sys.stderr)
sys.stderr.flush()
server.serve_forever()
