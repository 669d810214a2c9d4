"""Secrets stay with those who need them: modes of files, environments, messages, logs and the broker."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path
from typing import Literal

import nats
import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from sqlalchemy import text
from tests.fetcher.conftest import Harness
from tests.fetcher.conftest import engine_environment as engine_environment
from tests.fetcher.conftest import harness as harness
from tests.servers import free_port, running_process, wait_until_listening
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import running_suite

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.disk.egress_usage_log import EgressUsageLog
from reelhaul_runtime import logs
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError, to_status
from reelhaul_runtime.redaction import redact_paths, redact_urls
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.sql import engines
from reelhaul_runtime.up import data_dir, suite_processes
from reelhaul_runtime.validation.urls import redact

_SECRET = "hunter2-of-the-test"


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A umask that takes no permissions away: modes are those that the code gives."""
    before = os.umask(0)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("content", ["", "run", "jobs.db", "cookies"])
@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750, 0o700])
def test_data_folder_becomes_private(tmp_path: Path, mode: int, content: str) -> None:
    """A data folder that exists, empty or used, loses the permissions of others."""
    folder = tmp_path / "data"
    folder.mkdir()
    if content:
        (folder / content).mkdir(mode=0o755)
    folder.chmod(mode)
    run = data_dir.create_run_folder(folder)
    assert (_mode(folder), _mode(run)) == (0o700, 0o700)


def test_folder_of_others_is_refused(tmp_path: Path) -> None:
    """A folder with other files, open to others, is refused and stays as it is; a private one is taken."""
    (tmp_path / "thesis.txt").touch()
    tmp_path.chmod(0o755)
    environment = {**os.environ, "REELHAUL_DATA_DIR": str(tmp_path), "REELHAUL_SUITE_TOKEN": "secret"}
    for arguments in (("up",), ("serve", "gateway")):
        command = [sys.executable, "-P", "-m", "reelhaul_runtime", *arguments]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert result.returncode == 2
        assert result.stderr.startswith("reelhaul: REELHAUL_DATA_DIR: ")
        assert "is open to other users (mode 0755)" in result.stderr
    assert _mode(tmp_path) == 0o755
    tmp_path.chmod(0o700)
    assert data_dir.create_run_folder(tmp_path).is_dir()


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.usefixtures("open_umask")
def test_database_is_private(tmp_path: Path, exists: bool) -> None:
    """A SQLite database and its log files have mode 0600, new or from an older version."""
    path = tmp_path / "jobs.db"
    if exists:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(f"jobs.db{suffix}").touch(mode=0o644)
    engine = engines.create_write_engine(f"sqlite:///{path}")
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (x)"))
            connection.execute(text("INSERT INTO t VALUES (1)"))
        assert {file.name: _mode(file) for file in tmp_path.iterdir()} == dict.fromkeys(
            ("jobs.db", "jobs.db-wal", "jobs.db-shm"), 0o600
        )
        with engine.begin() as connection:
            assert connection.execute(text("SELECT x FROM t")).scalar() == 1
    finally:
        engine.dispose()


@pytest.mark.usefixtures("open_umask")
def test_other_files_are_private(tmp_path: Path) -> None:
    """The broker's configuration and the egress log have mode 0600, also if they existed with another."""
    config, log = tmp_path / "nats/nats.conf", tmp_path / "run/egress-2026-01-02.log"
    for path in (config, log):
        path.parent.mkdir()
        path.touch(mode=0o644)
    suite_processes.write_nats_config(tmp_path / "nats", 4222, _SECRET)
    usage = EgressUsageLog(tmp_path / "run")
    usage.add(date(2026, 1, 2), "direct", 5)
    assert (_mode(config), _mode(log)) == (0o600, 0o600)
    assert _SECRET in config.read_text()
    assert usage.read(date(2026, 1, 2)) == {"direct": 5}


#: By setting: the processes that may know it.
_READERS = {
    "REELHAUL_FETCHER_UPSTREAM_PROXY": {"fetcher"},
    "REELHAUL_FETCHER_UPSTREAM_PROXIES": {"fetcher"},
    "REELHAUL_FETCHER_COOKIES_KEY": {"fetcher"},
    "REELHAUL_FETCHER_TRANSLATOR_KEY": {"fetcher"},
    "REELHAUL_FETCHER_ALLOW_NETWORKS": {"jobs", "fetcher"},
    "REELHAUL_FETCHER_ADDRESSES": {"jobs", "fetcher", "gateway"},
    "REELHAUL_JOBS_DATABASE_URL": {"jobs"},
    "REELHAUL_STORAGE_DATABASE_URL": {"storage"},
    "REELHAUL_STORAGE_ADOPT_DIR": {"storage", "fetcher"},
    "REELHAUL_DRAIN_SECONDS": {"storage", "jobs", "fetcher", "gateway"},
}


def test_each_service_gets_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service gets the settings of the suite and its own; the broker gets none."""
    monkeypatch.setenv("REELHAUL_DATA_DIR", str(tmp_path))
    settings = SuiteSettings()
    for name in _READERS:
        monkeypatch.setenv(name, _SECRET)
    services = suite_processes.services(settings, "nats://token@127.0.0.1:4222", "suite-token")
    readers = {
        name: {service.name for service in services if service.environment.get(name) == _SECRET}
        for name in _READERS
    }
    assert readers == _READERS
    with_broker = {service.name for service in services if "REELHAUL_NATS_URL" in service.environment}
    assert with_broker == {"jobs", "fetcher"}
    assert suite_processes.nats(tmp_path / "nats", 4222, "token").environment == {}


def test_secrets_of_a_running_suite(tmp_path: Path, site: Site) -> None:
    """In a running suite secrets are in the memory and files of those alone who need them."""
    key = Fernet.generate_key().decode()
    # The second egress is never used: the site is reached through the first.
    proxies = f"direct,http://user:{_SECRET}@127.0.0.2:9"
    settings = {"fetcher_cookies_key": key, "fetcher_upstream_proxies": proxies}
    with running_suite(tmp_path / "data", **settings) as suite:
        processes = suite.processes()
        environments = {
            name: Path(f"/proc/{pid}/environ").read_bytes().decode() for name, pid in processes.items()
        }
        token = suite.address("nats").partition("//")[2].partition("@")[0]
        assert len(token) >= 32
        # A service that was forked has the settings in its memory only; one that was restarted, in both.
        for secret in (_SECRET, key, token):
            assert [name for name, text in environments.items() if secret in text] == []
        for pid in processes.values():
            command_line = Path(f"/proc/{pid}/cmdline").read_text()
            assert token not in command_line
            assert _SECRET not in command_line
        status = subprocess.run(
            [sys.executable, "-P", "-m", "reelhaul_runtime", "up", "--status"],
            env={**os.environ, "REELHAUL_DATA_DIR": str(suite.data_dir)},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert token not in status.stdout
        # A page that does not exist, with a secret in its URL.
        failed = wait_for_end(suite, create_download(suite, site.url(f"/no-page?token={_SECRET}")))
        assert failed["failed"]["error"]["reason"] == "MEDIA_NOT_FOUND"
        assert _SECRET not in json.dumps(failed["failed"]["error"])
        data_files = [path for path in suite.data_dir.rglob("*") if path.is_file() and not path.is_symlink()]
        shared = [path.name for path in data_files if _mode(path) & 0o077]
        assert shared == []
        os.kill(processes["fetcher"], signal.SIGKILL)
        suite.wait_for(
            "a new fetcher",
            lambda: suite.processes().get("fetcher", processes["fetcher"]) != processes["fetcher"],
        )
        fetcher = Path(f"/proc/{suite.processes()['fetcher']}/environ").read_bytes().decode()
        assert all(secret in fetcher for secret in (_SECRET, key, token))
    log = suite.log.read_text()
    assert token not in log
    assert _SECRET not in log


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[str]:
    """The broker that ``up`` starts; its URL with the credential."""
    port = free_port()
    process = suite_processes.nats(tmp_path / "nats", port, _SECRET)
    with running_process(list(process.command), stderr=subprocess.DEVNULL):
        await wait_until_listening(port)
        yield f"nats://{_SECRET}@127.0.0.1:{port}"


@pytest.mark.parametrize("credential", [{}, {"auth_token": "wrong"}, {"user": "reelhaul", "pass": _SECRET}])
async def test_broker_refuses_strangers(broker: str, credential: dict[str, str]) -> None:
    """Another local user can neither forge progress nor delete a stream; the suite can do both."""
    client = await nats.connect(broker, allow_reconnect=False)
    try:
        received = await client.subscribe("progress.>")
        await client.jetstream().add_stream(name="WORK", subjects=["work.>"])
        reader, writer = await asyncio.open_connection("127.0.0.1", int(broker.rpartition(":")[2]))
        connect = json.dumps({"verbose": False, "protocol": 1, **credential})
        publishes = "".join(
            f"PUB {subject} 6\r\nforged\r\n" for subject in ("progress.jobs.1", "$JS.API.STREAM.DELETE.WORK")
        )
        writer.write(f"CONNECT {connect}\r\n{publishes}PING\r\n".encode())
        async with asyncio.timeout(10):
            response = await reader.read()
        writer.close()
        assert b"-ERR 'Authorization Violation'" in response
        assert b"PONG" not in response
        await client.publish("progress.jobs.1", b"ours")
        assert (await received.next_msg(timeout=5)).data == b"ours"
        assert (await client.jetstream().stream_info("WORK")).config.name == "WORK"
        assert await client.jetstream().delete_stream("WORK")
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("message", "redacted"),
    [
        ("https://a.example/reset?token=x: failed", "https://a.example/reset: failed"),
        ("(https://a.example/reset?token=x).", "(https://a.example/reset)."),
        ("https://user:pass@a.example/x", "https://a.example/x"),
        ("https://user:p@ss@a.example:8443/x#t=1", "https://a.example:8443/x"),
        ("nats://token@127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("'//a.example?q=x'", "'//a.example'"),
        ("[generic] reset?token=x: failed", "[generic] reset: failed"),
        ("http://a.example/1?a=1 and http://b.example/2?b=2", "http://a.example/1 and http://b.example/2"),
        # Twins: nothing to hide.
        ("https://a.example/watch/1: failed", "https://a.example/watch/1: failed"),
        ("is this right? a = b", "is this right? a = b"),
        ("the file has 3 // 4 parts, why?", "the file has 3 // 4 parts, why?"),
        ("mail@a.example", "mail@a.example"),
        ("", ""),
    ],
)
def test_redaction(message: str, redacted: str) -> None:
    """User info, query and fragment of a URL are removed from a message; host and path stay."""
    assert redact_urls(message) == redacted


@pytest.mark.parametrize(
    ("message", "redacted"),
    [
        ("[Errno 2] No such file: '/data/work/j-1/a.mp4'", "[Errno 2] No such file: 'a.mp4'"),
        ("'/a folder/with blanks/x.mp4' is missing", "'x.mp4' is missing"),
        ("Error opening file:/data/work/j-1/cover.jpg", "Error opening file:cover.jpg"),
        ("cannot rename /tmp/a/b.part to /tmp/a/b: denied", "cannot rename b.part to b: denied"),
        ("(/usr/lib/x.so)", "(x.so)"),
        ("in /data/work/", "in …"),
        ('File "/opt/venv/lib/yt_dlp/x.py", line 3', 'File "x.py", line 3'),
        # Twins: no paths of the server.
        ("https://a.example/watch/1: failed", "https://a.example/watch/1: failed"),
        ("http://[::1]:80/watch/1", "http://[::1]:80/watch/1"),
        ("artifacts/1/content", "artifacts/1/content"),
        ("video/mp4 and 1/2/3", "video/mp4 and 1/2/3"),
        ("/root", "/root"),
        ("and/or", "and/or"),
    ],
)
def test_redaction_of_paths(message: str, redacted: str) -> None:
    """An absolute path in a message loses its folders; URLs and relative names stay."""
    assert redact_paths(message) == redacted


@pytest.mark.parametrize(
    "repeated",
    [
        "/",
        "?",
        "//",
        "?a",
        "http://",
        "?=",
        "a@",
        "//@",
        "'",
        "//a?b@",
        "/a",
        "'/a/",
        " /a/b",
        "'/a/b'",
        '"/',
    ],
)
def test_redaction_of_long_messages(repeated: str) -> None:
    """No message takes long: a megabyte in less time than the test's."""
    redact_urls(repeated * (1_000_000 // len(repeated)))
    redact_paths(repeated * (1_000_000 // len(repeated)))


def test_errors_contain_no_queries() -> None:
    """Errors that leave a service name URLs by host and path."""
    url = f"https://user:{_SECRET}@a.example/x?token={_SECRET}"
    error = ReelhaulError(ErrorReason.SITE_UNSUPPORTED, f"nothing at {url}", metadata={"url": url})
    for each in (error, FieldInvalid("job.url", f"{url} is wrong")):
        status = to_status(each)
        assert _SECRET not in str(status)
        assert "https://a.example/x" in status.message
    assert redact(f"//user:{_SECRET}@a.example/x?{_SECRET}") == "//a.example/x"


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """A stream for the logs; the logging of the tests is restored afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("style", ["json", "text"])
def test_logs_contain_no_queries(style: Literal["json", "text"], log_stream: io.StringIO) -> None:
    """Messages, fields and tracebacks in logs name URLs by host and path."""
    logs.configure("test", style, "INFO", stream=log_stream)
    url = f"https://a.example/x?token={_SECRET}"
    error = ValueError(f"{url} failed")
    logging.getLogger("test").error("at %s", url, extra={"page": url, "pages": [url]}, exc_info=error)
    text = log_stream.getvalue()
    assert _SECRET not in text
    assert text.count("https://a.example/x") == 4
    if style == "json":
        assert json.loads(text)["page"] == "https://a.example/x"


async def _refuse_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the first bytes of a TLS handshake with what is none."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "path", ["/reset?token=", "/reset?next=/login&token=", "/reset?token=a%20", "/reset#"]
)
async def test_tls_failure_contains_no_query(harness: Harness, site: Site, path: str) -> None:
    """A failed TLS handshake is reported with the host and without the query; twin: a page with a query."""
    async with await asyncio.start_server(_refuse_tls, "127.0.0.2", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ReelhaulError) as failure:
            await harness.probe(f"https://127.0.0.2:{port}{path}{_SECRET}")
    assert failure.value.reason == ErrorReason.UPSTREAM_UNAVAILABLE
    assert failure.value.metadata["host"] == "127.0.0.2"
    assert _SECRET not in failure.value.text
    assert _SECRET not in str(failure.value.metadata)
    assert (await harness.probe(site.url(f"/watch/demo?token={_SECRET}"))).title
