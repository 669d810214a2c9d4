"""The suite with REELHAUL_AUTH=keys: the first key, and the command line with it and with others."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from tests.suite.suite import Suite, running_suite

from reelhaul.cli.commands import reelhaul
from reelhaul.client import AsyncClient, CallFailed, Client
from reelhaul.rest import Client as RestClient

# A second, and what a slow machine adds; without a notice it would be a minute.
_REVOCATION_SECONDS = 10.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Suite, str]]:
    """A suite with keys, and what it has printed at a terminal until it was ready."""
    master, slave = pty.openpty()
    with running_suite(tmp_path_factory.mktemp("keys") / "data", auth="keys", stdout=slave) as suite:
        printed = ""
        while "data" not in printed:
            printed += os.read(master, 65536).decode()
        yield suite, printed
    os.close(master)
    os.close(slave)


@pytest.fixture(autouse=True)
def without_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder without .env, which the command line reads."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def suite(started: tuple[Suite, str]) -> Suite:
    return started[0]


@pytest.fixture
def first_key(suite: Suite) -> str:
    return (suite.data_dir / "run" / "api-key").read_text().strip()


def cli(suite: Suite, *arguments: str, key: str = "", at_server: bool = True) -> Result:
    """Run the command line, with the data folder of the suite if it is *at_server*."""
    environment = {
        "REELHAUL_API_KEY": key or None,
        "REELHAUL_DATA_DIR": str(suite.data_dir) if at_server else None,
    }
    arguments = (*arguments, "--server", suite.address("gateway"))
    return CliRunner().invoke(reelhaul, arguments, env=environment)


def cli_json(suite: Suite, *arguments: str, key: str = "") -> dict[str, Any]:
    result = cli(suite, *arguments, "--json", key=key)
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_first_key_is_shown_once(started, first_key):
    """The ready message at a terminal has the first key; its file is private, and no log has it."""
    suite, printed = started
    assert re.findall(r"rh_live_\w+", printed) == [first_key]
    assert (suite.data_dir / "run" / "api-key").stat().st_mode & 0o777 == 0o600
    assert first_key not in suite.log.read_text()


def test_command_line_uses_the_first_key(suite):
    """At the server the command line finds the first key; elsewhere it says what is missing."""
    assert "full-access" in cli(suite, "keys", "show").stdout
    assert cli(suite, "jobs", "list").exit_code == 0
    elsewhere = cli(suite, "jobs", "list", at_server=False)
    assert elsewhere.exit_code == 1
    assert "CREDENTIAL_MISSING" in elsewhere.stderr
    assert "REELHAUL_API_KEY" in elsewhere.stderr


def test_keys_from_creation_to_deletion(suite):
    """A key is created, shown, changed, rotated with grace, disabled, enabled, deleted and undeleted."""
    created = cli_json(
        suite,
        "keys",
        "create",
        "--name",
        "laptop",
        "--level",
        "read-only",
        "--site",
        "x.com",
        "--expires",
        "90d",
    )
    name, key = created["name"], created["keyString"]
    assert created["allowedSites"] == ["x.com"]
    assert cli_json(suite, "keys", "show", key=key)["name"] == name
    refused = cli(suite, "keys", "list", key=key)
    assert (refused.exit_code, "PERMISSION_INSUFFICIENT" in refused.stderr) == (1, True)
    changed = cli_json(suite, "keys", "update", name, "--level", "admin", "--never-expires", "--site", "")
    assert changed["permission"] == "PERMISSION_LEVEL_ADMIN"
    assert changed.keys().isdisjoint({"allowedSites", "expireTime"})
    rotated = cli_json(suite, "keys", "rotate", name, "--grace", "1h")["keyString"]
    assert (
        cli(suite, "keys", "list", key=key).exit_code
        == cli(suite, "keys", "list", key=rotated).exit_code
        == 0
    )
    assert cli_json(suite, "keys", "disable", name)["state"] == "DISABLED"
    assert "CREDENTIAL_INVALID" in cli(suite, "keys", "show", key=rotated).stderr
    assert cli_json(suite, "keys", "enable", name)["state"] == "ACTIVE"
    assert cli_json(suite, "keys", "delete", name)["state"] == "DELETED"
    assert name.removeprefix("apiKeys/") not in cli(suite, "keys", "list").stdout
    assert name.removeprefix("apiKeys/") in cli(suite, "keys", "list", "--all").stdout
    assert cli_json(suite, "keys", "undelete", name)["state"] == "ACTIVE"
    assert cli_json(suite, "keys", "show", key=rotated)["displayName"] == "laptop"
    assert "The old key works until 20" in cli(suite, "keys", "rotate", name, "--grace", "1h").stderr
    assert "The old key no longer works." in cli(suite, "keys", "rotate", name).stderr


def test_last_key_cannot_be_deleted(suite):
    """The command line says why the only FULL_ACCESS key stays."""
    name = cli_json(suite, "keys", "show")["name"]
    result = cli(suite, "keys", "delete", name)
    assert result.exit_code == 1
    assert "create another one first" in result.stderr


def test_a_mistyped_key_is_found_without_a_call(suite, first_key):
    """A key with a typing error is refused before any call, and not repeated."""
    mistyped = first_key[:-1] + ("0" if first_key[-1] != "0" else "1")
    result = cli(suite, "jobs", "list", key=mistyped)
    assert (result.exit_code, "checksum" in result.stderr) == (2, True)
    assert mistyped not in result.stderr
    for client in (RestClient, Client):
        with pytest.raises(ValueError, match="checksum"):
            client(suite.address("gateway"), api_key=mistyped)


def test_client_libraries_send_the_key(suite, first_key, monkeypatch):
    """Both libraries take the key as an argument or from REELHAUL_API_KEY."""

    def list_rest(**options: Any) -> int:
        with RestClient(suite.address("gateway"), **options) as client:
            return len(client.list().jobs)

    async def get_grpc(**options: Any) -> str:
        async with AsyncClient(suite.address("jobs"), storage=suite.address("storage"), **options) as client:
            with pytest.raises(CallFailed) as failure:
                await client.get("jobs/01990000-0000-7000-8000-000000000001")
            return failure.value.reason

    assert list_rest(api_key=first_key) == 0
    assert asyncio.run(get_grpc(api_key=first_key)) == "RESOURCE_NOT_FOUND"
    with pytest.raises(CallFailed) as failure:
        list_rest()
    assert (failure.value.reason, failure.value.code) == ("CREDENTIAL_MISSING", "UNAUTHENTICATED")
    assert asyncio.run(get_grpc()) == "CREDENTIAL_MISSING"
    monkeypatch.setenv("REELHAUL_API_KEY", first_key)
    assert list_rest() == 0
    assert asyncio.run(get_grpc()) == "RESOURCE_NOT_FOUND"


def test_bare_ids_below_admin(suite, first_key):
    """The same keys are at /api/v1/admin/keys by their bare ids, and no key is accepted in a URL."""
    headers = {"X-API-Key": first_key}
    with httpx.Client(base_url=suite.address("gateway"), trust_env=False) as http:
        body = {"permission": "PERMISSION_LEVEL_DOWNLOAD"}
        created = http.post("/api/v1/admin/keys", json=body, headers=headers).raise_for_status().json()
        path = "/api/v1/admin/keys/" + created["name"].removeprefix("apiKeys/")
        assert http.get(path, headers=headers).json()["name"] == created["name"]
        patched = http.patch(path, json={"displayName": "x"}, headers=headers)
        assert patched.json()["displayName"] == "x", patched.text
        assert http.post(f"{path}:rotate", json={}, headers=headers).json()["keyString"]
        assert http.delete(path, headers=headers).json()["state"] == "DELETED"
        assert http.get("/v1/apiKeys", params={"key": first_key}).status_code == 401


def test_a_disabled_key_is_refused_within_a_second(suite, first_key):
    """A key that was used and is disabled is refused by every service within a second."""
    created = cli_json(suite, "keys", "create", "--level", "read-only")
    paths = ["/v1/jobs", "/v1/artifacts", "/v1/extractors"]
    with httpx.Client(base_url=suite.address("gateway"), trust_env=False) as http:
        headers = {"Authorization": f"Bearer {created['keyString']}"}
        assert [http.get(path, headers=headers).status_code for path in paths] == [200] * 3
        admin = {"Authorization": f"Bearer {first_key}"}
        http.patch(f"/v1/{created['name']}", json={"disabled": True}, headers=admin).raise_for_status()
        disabled = time.monotonic()
        while statuses := [s for p in paths if (s := http.get(p, headers=headers).status_code) != 401]:
            assert time.monotonic() - disabled < _REVOCATION_SECONDS, statuses


def test_log_level_at_run_time(suite: Suite, first_key: str):
    """A key of full access changes the log level of every process for a time, which the audit log has."""
    changed = cli(suite, "log-level", "all", "debug", "--for", "5m", key=first_key)
    assert changed.exit_code == 0, changed.output
    assert [line.split()[0] for line in changed.stdout.splitlines()] == [
        "gateway",
        "jobs",
        "storage",
        "fetcher",
    ]
    suite.http.get("/v1/jobs", headers={"x-api-key": first_key, "x-request-id": "at-debug"})

    def request_is_logged() -> bool:
        lines = [json.loads(line) for line in suite.log.read_text().splitlines() if line.startswith("{")]
        own = {(line["service"], line["level"]) for line in lines if line.get("request_id") == "at-debug"}
        return own >= {("jobs", "DEBUG"), ("gateway", "INFO")}

    suite.wait_for("lines of the request", request_is_logged)
    entries = suite.http.get("/v1/auditEntries", headers={"x-api-key": first_key}).json()["auditEntries"]
    methods = [entry["method"] for entry in entries]
    assert "reelhaul.system.v1.SystemService/SetLogLevel" in methods
    reset = cli(suite, "log-level", "all", "reset", key=first_key)
    assert reset.exit_code == 0, reset.output
    refused = cli(suite, "log-level", "jobs", "debug", "--logger", "botocore", key=first_key)
    assert refused.exit_code == 2
    assert "logger: must be one of ours" in refused.output


def test_tenants_by_the_command_line(suite: Suite, first_key: str):
    """A tenant is created, listed, changed, disabled and deleted; its keys stop while it is disabled."""
    created = cli(suite, "tenants", "create", "acme", "--name", "Acme", "--limit", "jobs_per_day=5")
    assert created.exit_code == 0, created.output
    assert "limits:    jobs_per_day=5" in created.stdout.splitlines()
    key = cli_json(suite, "keys", "create", "--tenant", "acme", "--level", "read-only")["keyString"]
    assert cli_json(suite, "tenants", "show", key=key)["name"] == "tenants/acme"
    assert "acme\tactive\t\tAcme" in cli(suite, "tenants", "list").stdout.splitlines()
    changed = cli_json(
        suite, "tenants", "update", "acme", "--deny-site", "videos.example", "--retention", "7d"
    )
    assert (changed["deniedSites"], changed["retention"]) == (["videos.example"], "604800s")
    emptied = cli(suite, "tenants", "update", "tenants/acme", "--deny-site", "")
    assert "sites:" not in emptied.stdout
    assert "retention: 7 days" in emptied.stdout.splitlines()
    usage = cli(suite, "tenants", "usage", "acme").stdout
    assert re.search(r"^jobs_per_day: +0, of 5$", usage, re.MULTILINE)

    assert cli_json(suite, "tenants", "disable", "acme")["state"] == "DISABLED"
    suite.wait_for(
        "end of the key", lambda: cli(suite, "keys", "show", key=key).exit_code, seconds=_REVOCATION_SECONDS
    )
    assert cli_json(suite, "tenants", "enable", "acme")["state"] == "ACTIVE"

    refused = cli(suite, "tenants", "delete", "acme")
    assert refused.exit_code == 1
    assert "force" in refused.output
    assert cli_json(suite, "tenants", "delete", "acme", "--force")["state"] == "DELETING"
    missing = cli(suite, "tenants", "show", "nobody")
    assert "`reelhaul tenants list` shows the existing tenants" in missing.output
    assert cli(suite, "tenants", "update", "local").exit_code == 2


def test_rotating_what_is_no_key(suite: Suite):
    """The argument is named as the command calls it, with the command that lists what it may be."""
    result = cli(suite, "keys", "rotate", "nonsense")
    assert result.exit_code == 2
    assert "'KEY': 'nonsense' is not the id of a key: `reelhaul keys list` shows them" in result.output
