"""Which key the clients send, and to whom."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests.libs.fake_gateway import DONE, FILE, FakeGateway, running_gateway, status

from reelhaul.api_keys import create_key_string
from reelhaul.cli.commands import reelhaul
from reelhaul.cli.credentials import resolve_api_key
from reelhaul.downloads.v1.download_pb2 import File
from reelhaul.rest import Client

KEY, OTHER = create_key_string(), create_key_string()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without .env and without a suite."""
    monkeypatch.chdir(tmp_path)
    for name in ("REELHAUL_API_KEY", "REELHAUL_API_KEY_FILE", "REELHAUL_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as running:
        yield running


def store(folder: Path, gateway: str, key: str = KEY, pid: int | None = None) -> None:
    """Write what a suite leaves in its data folder while it runs."""
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    (run / "api-key").write_text(key + "\n")
    state = {"pid": os.getpid() if pid is None else pid, "addresses": {"gateway": gateway}}
    (run / "suite.json").write_text(json.dumps(state))


def test_order(folder, monkeypatch):
    """A given key goes before that of .env, and that before the one of the suite in the data folder."""
    server = "http://127.0.0.1:8080"
    assert resolve_api_key("", server) == ""
    store(folder / "data", server)
    assert resolve_api_key("", server) == KEY
    (folder / ".env").write_text(f"REELHAUL_API_KEY={OTHER}\n")
    assert resolve_api_key("", server) == OTHER
    assert resolve_api_key(KEY, server) == KEY
    (folder / ".env").write_text("REELHAUL_DATA_DIR=elsewhere\n")
    assert resolve_api_key("", server) == ""
    monkeypatch.setenv("REELHAUL_DATA_DIR", str(folder / "data"))
    assert resolve_api_key("", server) == KEY
    (folder / "secret").write_text(OTHER + "\n")
    monkeypatch.setenv("REELHAUL_API_KEY_FILE", "secret")
    assert resolve_api_key("", server) == OTHER
    monkeypatch.setenv("REELHAUL_API_KEY_FILE", "missing")
    with pytest.raises(click.UsageError, match="REELHAUL_API_KEY_FILE: missing"):
        resolve_api_key("", server)


@pytest.mark.parametrize(
    ("gateway", "server", "is_sent"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://127.0.0.1:8080", "http://localhost:8080", True),
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080", True),
        ("http://0.0.0.0:8080", "0.0.0.0:8080", True),
        ("https://[::]:8443", "https://[::1]:8443", True),
        ("http://192.0.2.1:8080", "http://192.0.2.1:8080", True),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8081", False),
        ("http://127.0.0.1:8080", "http://videos.example:8080", False),
        ("http://0.0.0.0:8080", "http://192.0.2.1:8080", False),
        ("https://127.0.0.1:8080", "http://127.0.0.1:8080", False),
    ],
)
def test_the_stored_key_goes_to_its_own_suite_only(folder, gateway, server, is_sent):
    """The key in a data folder is sent to the gateway of the suite on that folder, and to nobody else."""
    store(folder / "data", gateway)
    assert resolve_api_key("", server) == (KEY if is_sent else "")


def test_the_stored_key_is_not_sent_when_the_suite_has_ended(folder):
    """Another program may have taken the port of a suite that was killed."""
    store(folder / "data", "http://127.0.0.1:8080", pid=2**22 + 1)
    assert resolve_api_key("", "127.0.0.1:8080") == ""
    store(folder / "data", "http://127.0.0.1:8080")
    (folder / "data" / "run" / "suite.json").unlink()
    assert resolve_api_key("", "127.0.0.1:8080") == ""


def test_mistyped_key(folder, gateway):
    """A mistyped key ends the command before any call, and is not repeated."""
    mistyped = KEY[:20] + KEY[21] + KEY[20] + KEY[22:]
    if mistyped == KEY:
        mistyped = KEY[:-1]
    with pytest.raises(click.UsageError):
        resolve_api_key(mistyped, gateway.url)
    arguments = ["jobs", "list", "--api-key", mistyped, "--server", gateway.url]
    result = CliRunner().invoke(reelhaul, arguments)
    assert result.exit_code == 2
    assert mistyped not in result.output
    assert gateway.requests == []


def authorizations(gateway: FakeGateway) -> set[str | None]:
    return {headers.get("authorization") for _, headers, _ in gateway.requests}


def test_the_key_goes_to_the_gateway_only(folder, gateway):
    """Calls to the gateway have the key; another server that it names or redirects to does not get it."""
    with running_gateway() as other, Client(gateway.url, api_key=KEY) as client:
        client.get(DONE["job_id"])
        fields = {name: FILE[name] for name in ("name", "size_bytes", "sha256")}
        file = File(**fields, url=other.url + FILE["url"])
        client.save_files([file], folder)
        gateway.redirect_to = other.url + "/v1/artifacts/a?signature=abc"
        (folder / file.name).unlink()
        client.save_files([File(**fields, url=FILE["url"])], folder)
    assert authorizations(gateway) == {f"Bearer {KEY}"}
    assert len(other.requests) == 2
    assert authorizations(other) == {None}


@pytest.mark.parametrize(
    ("code", "reason", "advice"),
    [
        (16, "CREDENTIAL_MISSING", "REELHAUL_API_KEY"),
        (16, "CREDENTIAL_INVALID", "reelhaul first-key"),
        (7, "PERMISSION_INSUFFICIENT", "reelhaul keys show"),
        (7, "ADDRESS_FORBIDDEN", "networks"),
    ],
)
def test_refusals_say_what_to_do(folder, gateway, code, reason, advice):
    """The command line says what to do about a call that is refused for its key."""
    gateway.responses["GET /api/v1/jobs"] = [({16: 401, 7: 403}[code], status(code, reason, "no"))]
    result = CliRunner().invoke(reelhaul, ["jobs", "list", "--server", gateway.url])
    assert result.exit_code == 1
    assert advice in result.stderr


_KEY_ID = "01990000-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["create", "--level", "root"], "read-only"),
        (["create", "--expires", "soon"], "90d"),
        (["create", "--limit", "jobs=1"], "jobs_per_day"),
        (["update", "x"], "not the id of a key"),
        (["update", _KEY_ID], "nothing to change"),
        (["update", _KEY_ID, "--never-expires", "--expires", "1d"], "cannot be combined"),
        (["rotate", _KEY_ID, "--grace", "1y"], "90d"),
    ],
)
def test_invalid_options_of_keys(gateway, arguments, problem):
    """An invalid option is refused before any call, and the message shows what is valid."""
    result = CliRunner().invoke(reelhaul, ["keys", *arguments, "--server", gateway.url])
    assert (result.exit_code, gateway.requests) == (2, [])
    assert problem in result.stderr


def test_fields_of_a_new_key(gateway):
    """The options of `keys create` become the fields of the key."""
    created: dict[str, Any] = {"name": "apiKeys/1", "keyString": KEY, "permission": "PERMISSION_LEVEL_ADMIN"}
    gateway.responses["POST /v1/apiKeys"] = [(200, created)]
    options = (
        "--name n --level admin --tenant acme --expires 2w --cidr 192.0.2.0/24 --site x.com --site y.com"
    )
    limits = "--deny-site z.com --grant expert_selector --limit jobs_per_day=5 --limit stored_bytes=-1"
    arguments = ["keys", "create", *options.split(), *limits.split(), "--server", gateway.url]
    result = CliRunner().invoke(reelhaul, arguments)
    assert result.exit_code == 0, result.output
    assert KEY in result.stdout
    _, headers, body = gateway.requests[0]
    assert len(headers["idempotency-key"]) == 36
    assert body == {
        "displayName": "n",
        "permission": "PERMISSION_LEVEL_ADMIN",
        "tenant": "tenants/acme",
        "ttl": "1209600s",
        "allowedCidrs": ["192.0.2.0/24"],
        "allowedSites": ["x.com", "y.com"],
        "deniedSites": ["z.com"],
        "grants": ["GRANT_EXPERT_SELECTOR"],
        "quota": {"jobsPerDay": "5", "storedBytes": "-1"},
    }
