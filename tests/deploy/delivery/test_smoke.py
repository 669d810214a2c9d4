"""deploy/delivery/smoke.py against real suites: one that works, and several that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.servers import free_port
from tests.sites.site import Site
from tests.suite.suite import Suite, running_suite

from reelhaul_runtime.version import version

_SCRIPT = Path(__file__).resolve().parents[3] / "deploy/delivery/smoke.py"

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite that asks for keys."""
    with running_suite(tmp_path_factory.mktemp("smoke") / "data", auth="keys") as suite:
        yield suite


def smoke(url: str, video: str, *options: str, key: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"REELHAUL_API_KEY": key}
    command = [sys.executable, str(_SCRIPT), url, "--video", video, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def api_key(suite: Suite) -> str:
    return (suite.data_dir / "run/api-key").read_text().strip()


def count_jobs(suite: Suite) -> int:
    headers = {"Authorization": f"Bearer {api_key(suite)}"}
    return len(suite.http.get("/api/v1/jobs", headers=headers).raise_for_status().json()["jobs"])


def test_working_suite_passes(suite: Suite, site: Site):
    """A suite of the version that downloads a video passes, and keeps nothing of it."""
    key = api_key(suite)
    done = smoke(suite.address("gateway"), site.url("/watch/demo"), "--version", version(), key=key)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("smoke ok job=")
    assert key not in done.stdout
    assert count_jobs(suite) == 0


def test_another_version_fails(suite: Suite, site: Site):
    """A suite that is still the version before fails."""
    done = smoke(
        suite.address("gateway"),
        site.url("/watch/demo"),
        "--version=99.0.0",
        "--seconds=2",
        key=api_key(suite),
    )
    assert (done.returncode, done.stderr) == (1, "smoke FAILED: no version 99.0.0 in time\n")


def test_failing_download_fails(suite: Suite, site: Site):
    """A job that fails is the result, with its reason, and does not stay."""
    done = smoke(suite.address("gateway"), site.url("/nothing"), key=api_key(suite))
    assert done.returncode == 1
    assert "is FAILED" in done.stderr
    assert count_jobs(suite) == 0


def test_wrong_key_fails(suite: Suite, site: Site):
    """A key that the suite does not know fails, and is not printed."""
    done = smoke(suite.address("gateway"), site.url("/watch/demo"), key="rh_wrong")
    assert done.returncode == 1
    assert "answered 401" in done.stderr
    assert "rh_wrong" not in done.stderr


def test_suite_that_reaches_no_site_fails(tmp_path: Path, site: Site):
    """A suite whose fetchers may not reach the site fails."""
    with running_suite(tmp_path / "data", fetcher_allow_networks="") as suite:
        done = smoke(suite.address("gateway"), site.url("/watch/demo"))
    assert done.returncode == 1
    assert "POST /api/v1/download answered 4" in done.stderr


class _Strange(BaseHTTPRequestHandler):
    """A gateway that is ready, and answers what no version does: no name of a job, a file without an end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not self.server.stopping.wait(0.01):  # type: ignore[attr-defined]
                    self.wfile.write(b"x")
        elif self.path.startswith("/api/v1/jobs/"):
            file = {"name": "a", "url": "/endless", "sha256": "0" * 64, "size_bytes": "1"}
            self._answer({"status": "SUCCEEDED", "job_id": "1", "files": [file]})
        else:
            self._answer({})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        is_endless = b"endless" in self.rfile.read(length)
        self._answer({"job_id": "1"} if is_endless else {})

    def do_DELETE(self) -> None:
        self._answer({})

    def _answer(self, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def strange() -> Iterator[str]:
    """The URL of such a gateway."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Strange) as server:
        server.stopping = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.stopping.set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join()


def test_answer_of_another_form_fails(strange: str):
    """A gateway that answers another form of JSON fails in one line, so that a rollout goes back."""
    done = smoke(strange, "http://127.0.0.2/")
    assert done.returncode == 1
    assert done.stderr == "smoke FAILED: the gateway answered what no version should: KeyError('job_id')\n"


def test_endless_file_fails(strange: str):
    """A file that never ends fails when the time is over."""
    done = smoke(strange, "http://127.0.0.2/endless", "--seconds=1")
    assert (done.returncode, done.stderr) == (1, "smoke FAILED: a was not downloaded in time\n")


def test_missing_suite_fails(site: Site):
    """An address where nothing listens fails when the time is over."""
    done = smoke(f"http://127.0.0.1:{free_port()}", site.url("/watch/demo"), "--seconds=1")
    assert (done.returncode, done.stderr) == (1, "smoke FAILED: no readiness in time\n")
