"""Wrong settings of S3, and servers that fail: each is named, and nothing is retried that cannot succeed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.s3_server import S3Server
from tests.servers import WITHOUT_METRICS, free_port

from reelhaul_runtime.settings import InvalidSetting
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.s3.blobs import S3BlobStore
from reelhaul_storage.s3.location import parse_location

READER = "reader"


@pytest.fixture(autouse=True)
def credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the credentials of the server's user."""
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)


async def open_store(url: str) -> str:
    """Open the store at *url*; return the text of InvalidSetting, or nothing."""
    try:
        async with S3BlobStore.open(parse_location(url)) as blobs:
            await blobs.check()
    except InvalidSetting as error:
        return str(error)
    return ""


async def test_right_settings(s3_server: S3Server):
    """The right settings pass, and the check leaves nothing in the bucket."""
    assert await open_store(s3_server.storage_url("settings")) == ""
    assert s3_server.list_keys("settings/") == s3_server.list_multipart_uploads("settings/") == []


async def test_missing_bucket(s3_server: S3Server):
    """A bucket that does not exist is named, and is not created."""
    text = await open_store(s3_server.storage_url(bucket="missing"))
    assert text.startswith("REELHAUL_STORAGE_URL: the bucket does not exist")
    assert "missing" not in {bucket["Name"] for bucket in s3_server.client().list_buckets()["Buckets"]}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("AWS_ACCESS_KEY_ID", "unknown", "AWS_ACCESS_KEY_ID: S3 does not know"),
        ("AWS_ACCESS_KEY_ID", "", "AWS_ACCESS_KEY_ID: boto3 finds"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "AWS_SECRET_ACCESS_KEY: it does not belong"),
        ("AWS_ACCESS_KEY_ID", READER, "REELHAUL_STORAGE_URL: the credentials do not allow s3:PutObject"),
    ],
)
async def test_wrong_credentials(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str
):
    """Wrong credentials are named by their variable, and a missing permission by its action."""
    monkeypatch.setenv(name, value)
    assert (await open_store(s3_server.storage_url("settings"))).startswith(text)


async def test_server_that_is_away():
    """A server that does not answer is no wrong setting: the store opens, and its check fails."""
    url = f"s3://media?endpoint_url=http://127.0.0.1:{free_port()}&region=us-east-1&path_style=true"
    with pytest.raises(BackendUnavailable) as failure:
        await open_store(url)
    assert failure.value.retryable
    assert failure.value.metadata == {"backend": "s3", "cause": "EndpointConnectionError"}


Request = tuple[str, dict[str, str]]


@contextmanager
def failing_server(
    status: int, code: str, clock: timedelta = timedelta(), requests: list[Request] | None = None
) -> Iterator[str]:
    """Run a server that answers each request with an error of S3; yield its storage URL.

    It adds method and headers of each request to *requests*.
    """
    requests = [] if requests is None else requests

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.command, dict(self.headers)))
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response_only(status)
            self.send_header("Date", format_datetime(datetime.now(UTC) + clock, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield f"s3://media?endpoint_url={endpoint}&region=us-east-1&path_style=true"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [403, 200])
@pytest.mark.parametrize(("hours", "text"), [(1, "s behind"), (-20, "s ahead of")])
async def test_wrong_clock(status: int, hours: int, text: str):
    """A clock that differs too much is named with its difference, even if S3 accepts the requests."""
    with failing_server(status, "RequestTimeTooSkewed", timedelta(hours=hours)) as url:
        message = await open_store(url)
    begin = "REELHAUL_STORAGE_URL: the clock of this machine is "
    assert message.startswith(begin)
    seconds, _, rest = message.removeprefix(begin).partition(" ")
    assert int(seconds) == pytest.approx(abs(hours) * 3600, abs=30)
    assert rest == f"{text} that of S3: synchronize it"


async def test_throttling():
    """A server that wants fewer requests is tried again by boto3, then by the caller."""
    with failing_server(503, "SlowDown") as url, pytest.raises(BackendUnavailable) as failure:
        await open_store(url)
    assert failure.value.retryable
    assert failure.value.metadata == {"backend": "s3", "cause": "SlowDown"}


async def test_encryption():
    """With sse and sse_kms_key_id, S3 is told with each new object how to encrypt it."""
    requests: list[Request] = []
    with failing_server(400, "InvalidRequest", requests=requests) as url, pytest.raises(BackendUnavailable):
        await open_store(f"{url}&sse=aws:kms&sse_kms_key_id=alias/media")
    (headers, *_) = [headers for method, headers in requests if method == "PUT"]
    assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/media"


def test_serve_ends_at_once(s3_server: S3Server, tmp_path: Path):
    """A wrong bucket ends `reelhaul serve storage` with exit code 2 and one line that names the setting."""
    result = subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", "serve", "storage"],
        env=os.environ
        | {
            **WITHOUT_METRICS,
            "REELHAUL_DATA_DIR": str(tmp_path),
            "REELHAUL_STORAGE_URL": s3_server.storage_url(bucket="missing"),
            "REELHAUL_STORAGE_ADDRESS": f"127.0.0.1:{free_port()}",
            "REELHAUL_SUITE_TOKEN": "secret",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "reelhaul: REELHAUL_STORAGE_URL: the bucket does not exist: create it\n" in result.stderr
