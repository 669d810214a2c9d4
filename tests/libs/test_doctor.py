"""``reelhaul doctor``: what each check finds, that it changes nothing, and that it prints no secret."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tests.postgresql import fresh_database, migrated_database
from tests.s3_server import S3Server
from tests.servers import free_port, running_nats_with, running_process

from reelhaul_runtime.doctor import addresses, command, machine
from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, run_checks
from reelhaul_runtime.doctor.clock import check_clock
from reelhaul_runtime.doctor.databases import database_check
from reelhaul_runtime.sql import migrations

_SECRET = "s3cr3t-value-of-a-test-0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of a suite that does not run, in a working directory of its own."""
    for name in os.environ:
        if name.startswith("REELHAUL_"):
            monkeypatch.delenv(name)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    for name in ("GATEWAY", "JOBS", "FETCHER", "STORAGE", "STORAGE_HTTP"):
        monkeypatch.setenv(f"REELHAUL_{name}_ADDRESS", f"127.0.0.1:{free_port()}")
        if name != "STORAGE_HTTP":
            monkeypatch.setenv(f"REELHAUL_{name}_METRICS_ADDRESS", "")
    return data


def _find(name: str) -> list[Finding]:
    """Return the findings of the check *name* with the settings of the environment."""
    checks = [check for check in command.collect_checks() if check.name == name]
    assert checks, f"there is no check {name}"
    return [result.finding for result in run_checks(checks)]


def _levels(found: list[Finding]) -> list[str]:
    return [each.level for each in found]


# --- the command


def test_a_sound_installation_has_no_problem(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Before its first start a suite has no problem: everything that it needs is there."""
    assert command.main(as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    found = {each["check"]: each for each in report["checks"]}
    assert "problem" not in {each["level"] for each in report["checks"]}
    assert "yt-dlp 20" in found["fetcher.engine"]["fact"]
    assert "deno " in found["fetcher.javascript"]["fact"]
    assert "ffmpeg version" in found["fetcher.ffmpeg"]["fact"]
    assert "does not exist yet" in found["jobs.database"]["fact"]
    assert "no suite runs" in found["processes"]["fact"]


def test_nothing_is_changed_and_no_secret_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The data folder is as it was, to the time of each file, and no text has a value of a secret."""
    for package, name in (("reelhaul_jobs", "jobs.db"), ("reelhaul_storage", "storage.db")):
        migrations.migrate(f"sqlite:///{folder / name}", package)
    for name in ("SUITE_TOKEN", "API_KEY", "STORAGE_LINK_KEYS", "FETCHER_TRANSLATOR_KEY"):
        monkeypatch.setenv(f"REELHAUL_{name}", _SECRET)
    monkeypatch.setenv("REELHAUL_NATS_URL", f"nats://user:{_SECRET}@127.0.0.1:{free_port()}")
    monkeypatch.setenv("REELHAUL_FETCHER_UPSTREAM_PROXY", f"http://user:{_SECRET}@127.0.0.1:{free_port()}")
    monkeypatch.setenv("REELHAUL_RATE_LIMIT_URL", f"redis://user:{_SECRET}@127.0.0.1:{free_port()}")
    before = _snapshot(folder)
    assert command.main(as_json=False) == 1, "neither broker nor proxy answer"
    output = capsys.readouterr().out
    assert "broker" in output
    assert _SECRET not in output
    assert before == _snapshot(folder)


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    files = [folder, *folder.rglob("*")]
    return {
        str(file): (status.st_mode, status.st_size, status.st_mtime_ns)
        for file in files
        if (status := file.stat())
    }


def test_a_check_that_hangs_or_breaks_is_a_problem_of_its_own():
    """Other checks are reported, in their order, whatever one of them does."""
    never = threading.Event()

    def hang() -> Finding:
        never.wait()
        return ok("never")

    def crash() -> Finding:
        raise ValueError(f"nats://user:{_SECRET}@broker is\nwrong")

    checks = [Check("a", hang), Check("b", crash), Check("c", lambda: [ok("one"), problem("two", "do")])]
    results = run_checks(checks, seconds=0.3)
    never.set()
    assert [each.name for each in results] == ["a", "b", "c", "c"]
    assert _levels([each.finding for each in results]) == ["problem", "problem", "ok", "problem"]
    assert "did not end" in results[0].finding.fact
    assert "is wrong" in results[1].finding.fact
    assert _SECRET not in results[1].finding.fact


def test_an_engine_without_its_package_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The metadata of yt-dlp is not enough: without the package the fetcher cannot start its engine."""
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    (finding,) = _find("fetcher.engine")
    assert (finding.level, finding.fact) == ("problem", "yt-dlp is not installed")


# --- settings


def test_settings_are_counted_where_they_are(folder: Path):
    """The names of the environment and the lines of .env are counted, each for itself."""
    Path(".env").write_text("REELHAUL_FETCHER_SLOTS=3\nREELHAUL_LOG_LEVEL=INFO\n")
    (finding,) = _find("settings.names")
    assert finding.fact.endswith("9 are set in the environment and 2 in .env")


def test_wrong_settings_are_problems_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Unknown names and wrong values are named; what needs the settings is left out."""
    monkeypatch.setenv("REELHAUL_FETCHER_SLOT", "3")
    (unknown,) = _find("settings.names")
    assert unknown.fact == "REELHAUL_FETCHER_SLOT is not a setting: did you mean REELHAUL_FETCHER_SLOTS?"
    monkeypatch.setenv("REELHAUL_LOG_LEVEL", "LOUD")
    (wrong,) = _find("settings.values")
    assert wrong.level == "problem"
    assert wrong.fact.startswith("REELHAUL_LOG_LEVEL: ")
    assert "jobs.database" not in {check.name for check in command.collect_checks()}


@pytest.mark.parametrize(
    ("values", "level", "text"),
    [
        ({"JOBS_ADDRESSES": "127.0.0.1:1,127.0.0.1:2", "SUITE_TOKEN": "x"}, "problem", "database is SQLite"),
        (
            {"STORAGE_ADDRESSES": "127.0.0.1:1,127.0.0.1:2", "SUITE_TOKEN": "x"},
            "problem",
            "catalog is SQLite",
        ),
        ({"FETCHER_ADDRESSES": "10.0.0.1:50052"}, "problem", "REELHAUL_SUITE_TOKEN is not set"),
        ({"GATEWAY_WORKERS": "2"}, "warning", "counts calls for itself"),
        ({"GATEWAY_ADDRESS": "0.0.0.0:8080"}, "warning", "keys pass in plain text"),
        ({"GATEWAY_ADDRESS": "0.0.0.0:8080"}, "warning", "signed links only from this one"),
    ],
)
def test_contradictions_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], level: str, text: str
):
    """Settings that are valid each, and do not fit together."""
    for name, value in values.items():
        monkeypatch.setenv(f"REELHAUL_{name}", value)
    assert [level] == [each.level for each in _find("settings.combinations") if text in each.fact]


def test_secrets_that_others_can_read_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The file of a secret, and .env, are for their owner only."""
    secret = folder.parent / "token"
    secret.write_text(_SECRET)
    secret.chmod(0o644)
    monkeypatch.setenv("REELHAUL_SUITE_TOKEN_FILE", str(secret))
    (found,) = _find("settings.files")
    assert ("warning", f"chmod 600 {secret}") == (found.level, found.remedy)
    secret.chmod(0o600)
    assert _levels(_find("settings.files")) == ["ok"]
    (folder.parent / ".env").touch(0o644)
    assert _levels(_find("settings.files")) == ["warning"]


def test_a_certificate_that_lacks_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The names that clients use must be in the gateway's certificate, whose key is for its owner only."""
    pair = trustme.CA().issue_cert("media.example.org")
    for name, blob in (("certificate", pair.cert_chain_pems[0]), ("key", pair.private_key_pem)):
        blob.write_to_path(folder / f"{name}.pem")
        monkeypatch.setenv(f"REELHAUL_GATEWAY_TLS_{name.upper()}", str(folder / f"{name}.pem"))
    monkeypatch.setenv("REELHAUL_GATEWAY_ALLOWED_HOSTS", "media.example.org")
    assert _levels(_find("gateway.certificate")) == ["ok"]
    monkeypatch.setenv("REELHAUL_GATEWAY_ALLOWED_HOSTS", "media.example.org,videos.example.org")
    (found,) = _find("gateway.certificate")
    assert (found.level, "is not for videos.example.org" in found.fact) == ("warning", True)
    (folder / "key.pem").chmod(0o644)
    (key,) = _find("settings.files")
    assert key.fact.startswith("REELHAUL_GATEWAY_TLS_KEY: ")


# --- addresses


def test_the_program_at_an_address_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A port in use is reported with the program and its pid, a free one as free."""
    port = free_port()
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with running_process(server, stderr=subprocess.DEVNULL) as process:
        while addresses.find_listener(port) is None:
            assert process.poll() is None
            time.sleep(0.02)
        monkeypatch.setenv("REELHAUL_GATEWAY_ADDRESS", f"127.0.0.1:{port}")
        (found,) = _find("address.gateway")
        assert found.level == "problem"
        assert f"(pid {process.pid}) listens at 127.0.0.1:{port}" in found.fact
        assert "REELHAUL_GATEWAY_ADDRESS" in found.remedy
    assert _levels(_find("address.gateway")) == ["ok"]
    monkeypatch.setenv("REELHAUL_JOBS_ADDRESS", "192.0.2.1:50051")
    (elsewhere,) = _find("address.jobs")
    assert "not an address of this machine" in elsewhere.fact


def test_replicas_elsewhere_are_reached(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Each address of a list is tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        alive, dead = f"127.0.0.1:{server.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        monkeypatch.setenv("REELHAUL_FETCHER_ADDRESSES", f"{alive},{dead}")
        assert _levels(_find("address.fetcher_replicas")) == ["ok", "problem"]
    assert addresses.check_reachable("X", f"http://{dead}/").level == "problem"


# --- machine


def test_a_data_folder_that_others_can_enter_is_a_warning(folder: Path):
    """The remedy is a command."""
    folder.chmod(0o755)
    (found,) = _find("machine.data_folder")
    assert ("warning", f"chmod 700 {folder}") == (found.level, found.remedy)


def test_a_full_disk_is_a_problem(folder: Path):
    """Too little space has the folder and its setting in it."""
    (found, *_) = machine.check_disk(folder / "missing", "REELHAUL_DATA_DIR", low_bytes=1 << 60)
    assert found.level == "problem"
    assert "REELHAUL_DATA_DIR" in found.remedy


@pytest.mark.parametrize(("days", "level"), [(30, "ok"), (3, "warning"), (-1, "problem")])
def test_certificates_that_expire(tmp_path: Path, days: int, level: str):
    """A certificate is reported before it expires."""
    now = datetime.now(UTC)
    start, end = now - timedelta(days=9), now + timedelta(days=days)
    pair = trustme.CA().issue_cert("localhost", not_before=start, not_after=end)
    pair.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    assert level == machine.check_certificate("X", tmp_path / "certificate.pem", now).level


@pytest.mark.parametrize(("seconds", "level"), [(0.5, "ok"), (-10, "warning"), (600, "problem")])
def test_clocks_that_differ(seconds: float, level: str):
    """The clock of another machine may differ by two seconds."""
    now = datetime.now(UTC)
    assert level == check_clock("the database", now + timedelta(seconds=seconds), now, now).level


# --- databases, broker, bucket


def _check_database(url: str) -> list[Finding]:
    check = database_check("jobs.database", url, "reelhaul_jobs", "REELHAUL_JOBS_DATABASE_URL")
    return [result.finding for result in run_checks([check])]


def test_sqlite_databases(tmp_path: Path):
    """A database of this build, of a newer one, and a damaged one."""
    file = tmp_path / "jobs.db"
    migrations.migrate(f"sqlite:///{file}", "reelhaul_jobs")
    (found,) = _check_database(f"sqlite:///{file}")
    assert found.level == "ok"
    assert f"revision {migrations.head('reelhaul_jobs')}, as this build needs" in found.fact
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    (newer,) = _check_database(f"sqlite:///{file}")
    assert (newer.level, "newer than this build" in newer.fact) == ("warning", True)
    file.write_bytes(b"no database" * 1000)
    file.with_name("jobs.db-wal").unlink(missing_ok=True)
    assert _levels(_check_database(f"sqlite:///{file}")) == ["problem"]


@pytest.fixture(params=["empty", "migrated"])
def postgresql_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL database, with and without the schema of jobs."""
    with fresh_database() if request.param == "empty" else migrated_database("reelhaul_jobs") as url:
        yield url


def test_postgresql_databases(postgresql_url: str):
    """Version, revision and clock of a PostgreSQL database."""
    database, clock = _check_database(postgresql_url)
    assert (database.level, clock.level) == ("ok", "ok")
    assert database.fact.startswith("PostgreSQL 1")
    assert "the clock of the database agrees" in clock.fact


def test_a_postgresql_that_does_not_answer():
    """The setting is named, its password is not."""
    (found,) = _check_database(f"postgresql://user:{_SECRET}@127.0.0.1:{free_port()}/jobs")
    assert found.level == "problem"
    assert found.fact.startswith("REELHAUL_JOBS_DATABASE_URL: ")
    assert _SECRET not in found.fact


def test_brokers(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nats_url: str):
    """A broker with JetStream, one without, and none."""
    monkeypatch.setenv("REELHAUL_NATS_URL", nats_url)
    (found, *_) = _find("broker")
    assert (found.level, found.fact.startswith("nats-server 2.")) == ("ok", True)
    with running_nats_with(tmp_path, "") as port:
        monkeypatch.setenv("REELHAUL_NATS_URL", f"nats://127.0.0.1:{port}")
        (without,) = _find("broker")
    assert (without.level, "has no JetStream" in without.fact) == ("problem", True)


def test_buckets(folder: Path, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server):
    """A bucket that is there, one that is missing, and credentials that are wrong."""
    for name, value in s3_server.credentials().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REELHAUL_STORAGE_URL", s3_server.storage_url())
    before = s3_server.list_keys()
    assert _levels(_find("storage.backend")) == ["ok", "ok"]
    assert before == s3_server.list_keys(), "nothing is written"
    monkeypatch.setenv("REELHAUL_STORAGE_URL", s3_server.storage_url(bucket="no-such-bucket"))
    assert _levels(_find("storage.backend")) == ["problem"]
    monkeypatch.setenv("REELHAUL_STORAGE_URL", s3_server.storage_url())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", _SECRET)
    (refused,) = _find("storage.backend")
    assert refused.level == "problem"
    assert _SECRET not in refused.fact
