"""Several egress proxies: when a site throttles one of them, jobs use another."""

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

_HOP_BY_HOP = {"proxy-authorization", "proxy-connection", "connection", "host"}


class ThrottledProxy(BaseHTTPRequestHandler):
    """Answers every request with 429, as a site does that throttles this egress."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requested_urls.append(self.path)  # type: ignore[attr-defined]
        self.respond()

    def respond(self) -> None:
        self.send_response(429)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Log nothing."""


class ForwardingProxy(ThrottledProxy):
    """Forwards every request to the site."""

    def respond(self) -> None:
        target = urlsplit(self.path)
        path = target.path + (f"?{target.query}" if target.query else "")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        connection = http.client.HTTPConnection(target.netloc, timeout=20)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        content = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()


@contextmanager
def running_proxy(handler: type[ThrottledProxy]) -> Iterator[ThreadingHTTPServer]:
    """Run a proxy that records the URLs of its requests."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.requested_urls = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_throttled_egress_is_avoided(site: Site, tmp_path: Path) -> None:
    """Jobs that one egress cannot fetch use the other one at once, without a charged attempt."""
    with running_proxy(ThrottledProxy) as throttled, running_proxy(ForwardingProxy) as forwarding:
        ports = [server.server_address[1] for server in (throttled, forwarding)]
        settings = {
            "fetcher_upstream_proxies": ",".join(f"http://user:hidden@127.0.0.1:{port}" for port in ports),
            "fetcher_slots": "1",
            # Where the machine allows it, with a network namespace, which must not change the result.
            "fetcher_network_namespace": "auto",
        }
        with running_suite(tmp_path / "data", **settings) as suite:
            jobs = [create_download(suite, site.url(f"/media/1080.mp4?token=egress{n}")) for n in range(3)]
            for job in jobs:
                assert "completed" in wait_for_end(suite, job, seconds=25)
                assert suite.http.get(f"/v1/jobs/{job}").json()["attemptCount"] == 1
            assert 0 < len(throttled.requested_urls) < 20
            assert len(forwarding.requested_urls) >= len(jobs)
        log = suite.log.read_bytes()
        assert b"hidden" not in log


def test_wait_reason_when_egress_budget_is_spent(site: Site, tmp_path: Path) -> None:
    """When the daily bytes of all egresses are spent, a job waits until midnight UTC and says so."""
    with running_suite(tmp_path / "data", fetcher_egress_daily_bytes="1000") as suite:
        first = create_download(suite, site.url("/media/360.mp4?token=spent"))
        assert "completed" in wait_for_end(suite, first, seconds=25)
        job = create_download(suite, site.url("/media/360.mp4?token=waiting"))

        def spent() -> dict[str, Any] | None:
            wait = suite.http.get(f"/v1/jobs/{job}").raise_for_status().json().get("wait")
            return wait if wait and wait["reason"] == "EGRESS_SPENT" else None

        wait = suite.wait_for("wait reason", spent)
        assert wait["position"] == 1
        assert wait["until"].endswith("T00:00:00Z")
        assert suite.http.get(f"/api/v1/status/{job}").json()["wait_reason"] == "EGRESS_SPENT"
