"""Two ways out through the whole suite: where a site throttles one of them, the other brings the video."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import running_suite

_HOP = {"proxy-authorization", "proxy-connection", "connection", "host"}


class Throttled(BaseHTTPRequestHandler):
    """A way out that sites have had enough of."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.answer()

    def answer(self) -> None:
        self.send_response(429)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Forwarding(Throttled):
    """A way out that sites have nothing against."""

    def answer(self) -> None:
        target = urlsplit(self.path)
        path = target.path + (f"?{target.query}" if target.query else "")
        site = http.client.HTTPConnection(target.netloc, timeout=20)
        site.request("GET", path, headers={k: v for k, v in self.headers.items() if k.lower() not in _HOP})
        answer = site.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        site.close()


@contextmanager
def a_proxy(kind: type[Throttled]) -> Iterator[ThreadingHTTPServer]:
    """A proxy that remembers what it was asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_other_way_out(site: Site, tmp_path: Path) -> None:
    """Throttled by one egress, jobs go by the other: at once, uncharged, and each all by one."""
    with a_proxy(Throttled) as bad, a_proxy(Forwarding) as good:
        ports = [server.server_address[1] for server in (bad, good)]
        proxies = ",".join(f"http://user:hidden@127.0.0.1:{port}" for port in ports)
        told = {
            "fetcher_upstream_proxies": proxies,
            "fetcher_slots": "1",
            # In a network of its own, where this machine gives one, it is no different.
            "fetcher_network_namespace": "auto",
        }
        with running_suite(tmp_path / "data", **told) as suite:
            jobs = [create_download(suite, site.url(f"/media/1080.mp4?token=egress{n}")) for n in range(3)]
            for job in jobs:
                assert "completed" in wait_for_end(suite, job, seconds=25)
                assert suite.http.get(f"/v1/jobs/{job}").json()["attemptCount"] == 1
            assert 0 < len(bad.asked) < 20
            assert len(good.asked) >= len(jobs)
        log = suite.log.read_bytes()
        assert b"hidden" not in log
        assert b"network of its own" in log


def test_a_job_says_that_all_ways_out_are_spent(site: Site, tmp_path: Path) -> None:
    """When the day's bytes are used up, the next job waits, and says for what and until when."""
    with running_suite(tmp_path / "data", fetcher_egress_daily_bytes="1000") as suite:
        assert "completed" in wait_for_end(
            suite, create_download(suite, site.url("/media/360.mp4?token=spent")), seconds=25
        )
        job = create_download(suite, site.url("/media/360.mp4?token=waiting"))

        def spent() -> dict[str, Any] | None:
            wait = suite.http.get(f"/v1/jobs/{job}").raise_for_status().json().get("wait")
            return wait if wait and wait["reason"] == "EGRESS_SPENT" else None

        wait = suite.wait_for("reason", spent)
        assert wait["position"] == 1
        assert wait["until"].endswith("T00:00:00Z")
        assert suite.http.get(f"/api/v1/status/{job}").json()["wait_reason"] == "EGRESS_SPENT"
