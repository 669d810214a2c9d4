"""Careless operators: wrong, unknown and missing settings end a command at once, with what to do."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner
from tests.libs.fake_gateway import JOB, running_gateway
from tests.servers import WITHOUT_METRICS, running_process

from reelhaul.cli.commands import reelhaul
from reelhaul_runtime.commands import up
from reelhaul_runtime.up import data_dir

TOKEN = "the suite token"
SERVERS = ("GATEWAY", "JOBS", "FETCHER", "STORAGE", "STORAGE_HTTP")
# A Fernet key.
KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the developer's own REELHAUL_* and .env."""
    for name in [name for name in os.environ if name.upper().startswith("REELHAUL_")]:
        monkeypatch.delenv(name)
    for name, value in WITHOUT_METRICS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _own_process_state() -> Iterator[None]:
    """Restore what `up` changes in the process that it runs in: its logging, and the modes of new files."""
    root, umask = logging.getLogger(), os.umask(0o077)
    handlers, level = root.handlers[:], root.level
    # `up` closes the handlers that it replaces.
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    os.umask(umask)


def run(*arguments: str, module: str = "reelhaul_runtime", **environment: str) -> tuple[int, str]:
    """Run `python -m reelhaul_runtime` here, to its end; return exit code and standard error."""
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return result.returncode, result.stderr


def run_up(output: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run `up` on a data folder that another suite holds; return exit code and message.

    With the right settings it ends with that conflict, and starts nothing.
    """
    folder = Path(os.environ.get("REELHAUL_DATA_DIR", "data")).absolute()
    with ExitStack() as stack:
        if not any(each.is_file() for each in (folder, *folder.parents)):
            stack.enter_context(data_dir.lock(data_dir.create_run_folder(folder)))
        with pytest.raises(SystemExit) as ended:
            up([])
    assert isinstance(ended.value.code, int)
    return ended.value.code, output.readouterr().err


def passes(outcome: tuple[int, str]) -> bool:
    """Return whether `up` accepted all settings: it went on to the data folder."""
    code, message = outcome
    return code in (1, 2) and "a suite already runs on " in message and message.count("\n") == 1


# --- wrong settings


@pytest.fixture
def files(tmp_path: Path) -> None:
    """A file, a folder, and a certificate that is none."""
    (tmp_path / "a-file").write_text("no certificate")
    (tmp_path / "a-folder").mkdir()


WRONG = [
    ("REELHAUL_STORAGE_URL", "s3://Bucket/prefix", "s3://bucket/prefix"),
    ("REELHAUL_STORAGE_URL", "s3://hunter2:hunter2@bucket", "file://{tmp}/artifacts"),
    ("REELHAUL_STORAGE_URL", "s3://bucket/a//b", "s3://my.bucket/a/b"),
    ("REELHAUL_STORAGE_URL", "s3://bucket?access_key=hunter2", "s3://bucket?region=eu-central-1"),
    ("REELHAUL_STORAGE_URL", "s3://bucket?path_style=yes", "s3://bucket?path_style=true"),
    ("REELHAUL_STORAGE_URL", "s3://bucket?sse=DES", "s3://bucket?sse=AES256"),
    ("REELHAUL_STORAGE_URL", "s3://bucket?sse_kms_key_id=1", "s3://bucket?sse=aws:kms&sse_kms_key_id=1"),
    ("REELHAUL_STORAGE_URL", "s3://bucket?endpoint_url=minio:9000", "s3://bucket?endpoint_url=https://minio"),
    (
        "REELHAUL_STORAGE_URL",
        "s3://bucket?endpoint_url=http://u:hunter2@minio",
        "s3://bucket?endpoint_url=http://[::1]:9000",
    ),
    ("REELHAUL_STORAGE_URL", "file://host/folder", "file://{tmp}/a-folder"),
    ("REELHAUL_STORAGE_URL", "artifacts", ""),
    ("REELHAUL_STORAGE_URL", "file://{tmp}/a-file", "file://{tmp}/new/artifacts"),
    ("REELHAUL_STORAGE_HTTP_ADDRESS", "127.0.0.1", "192.0.2.1:50055"),
    ("REELHAUL_STORAGE_PUBLIC_URL", "media.example.org", "https://media.example.org:8443/links/"),
    ("REELHAUL_STORAGE_PUBLIC_URL", "https://u:hunter2@media.example.org", "http://[::1]:80"),
    ("REELHAUL_STORAGE_PUBLIC_URL", "https://media.example.org/?a=b", ""),
    ("REELHAUL_STORAGE_LINK_KEYS", f"{'k' * 32},hunter2", f"{'k' * 32}, {'l' * 32}"),
    ("REELHAUL_JOBS_DATABASE_URL", "jobs.db", "sqlite:///jobs.db"),
    ("REELHAUL_JOBS_DATABASE_URL", "mysql://u:hunter2@host/db", "postgresql://u:p/w#1@host:5432/db"),
    ("REELHAUL_JOBS_DATABASE_URL", "postgresql://u:hunter2@host:port/db", "postgresql:///db?host=/tmp"),
    ("REELHAUL_JOBS_DATABASE_URL", "sqlite://", "sqlite:////{tmp}/jobs.db"),
    ("REELHAUL_JOBS_DATABASE_URL", "sqlite:///a-folder", "sqlite:///a-folder/jobs.db"),
    ("REELHAUL_STORAGE_DATABASE_URL", "sqlite:///a-file/storage.db", "sqlite:///new/storage.db"),
    ("REELHAUL_STORAGE_DATABASE_URL", "postgres:hunter2", "postgres://host/db"),
    ("REELHAUL_DATA_DIR", "a-file", "a-folder"),
    ("REELHAUL_DATA_DIR", "a-file/data", "new/data"),
    ("REELHAUL_GATEWAY_ADDRESS", "8080", "127.0.0.1:8081"),
    ("REELHAUL_JOBS_ADDRESS", "127.0.0.1:http", "localhost:0"),
    ("REELHAUL_JOBS_ADDRESS", "::1:50051", "[::1]:50051"),
    ("REELHAUL_FETCHER_ADDRESS", "127.0.0.1:70000", "127.0.0.1:65535"),
    ("REELHAUL_NATS_URL", "localhost:4222", "nats://localhost:4222"),
    ("REELHAUL_NATS_URL", "http://localhost:4222", "tls://user:p:w@[::1]:4222"),
    ("REELHAUL_NATS_URL", "nats://localhost:port", "nats://localhost"),
    ("REELHAUL_SUITE_TOKEN", "über", "a secret"),
    ("REELHAUL_SUITE_TOKEN", " ", "x"),
    ("REELHAUL_JOBS_SITE_LIMITS", "youtube.com=4", '{"youtube.com": 4}'),
    ("REELHAUL_FETCHER_CA_FILE", "a-file", ""),
    ("REELHAUL_FETCHER_CA_FILE", "none-such.pem", ""),
    ("REELHAUL_FETCHER_COOKIES_KEY", "hunter2", KEY),
    ("REELHAUL_FETCHER_COOKIES_KEY", f"{KEY},short", f"{KEY}, {KEY}"),
    ("REELHAUL_FETCHER_UPSTREAM_PROXIES", "socks5://u:hunter2@host:1", "http://u:p@host:1,direct"),
    ("REELHAUL_FETCHER_SLOTS", "many", "3"),
]


@pytest.mark.usefixtures("files", "_own_process_state")
@pytest.mark.parametrize(("name", "wrong", "right"), WRONG)
def test_wrong_settings_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    wrong: str,
    right: str,
):
    """A wrong setting of any service is one line with its name and without its value; a right one passes."""
    monkeypatch.setenv(name, wrong.format(tmp=tmp_path))
    outcome = code, message = run_up(capfd)
    assert not passes(outcome)
    assert code == 2
    assert name in message.partition(":")[0] + message.partition(":")[2]
    assert f"{name}=" not in message
    assert message.count("\n") == 1
    assert "hunter2" not in message
    monkeypatch.setenv(name, right.format(tmp=tmp_path) if "{tmp}" in right else right)
    assert passes(run_up(capfd))


@pytest.mark.parametrize(
    ("name", "value", "owner"),
    [
        ("REELHAUL_STORAGE_URL", "s3://UPPER", "storage"),
        ("REELHAUL_JOBS_DATABASE_URL", "jobs.db", "jobs"),
        ("REELHAUL_FETCHER_COOKIES_KEY", "hunter2", "fetcher"),
        ("REELHAUL_GATEWAY_WORKERS", "0", "gateway"),
    ],
)
def test_up_and_serve_end_at_once(tmp_path: Path, name: str, value: str, owner: str):
    """up starts nothing and serve nothing with a wrong setting: exit code 2, and one line that names it."""
    for command in (("up",), ("serve", owner)):
        code, message = run(*command, REELHAUL_SUITE_TOKEN=TOKEN, **{name: value})
        assert code == 2, message
        assert message.startswith(f"reelhaul: {name}: ")
        assert message.count("\n") == 1
    assert not (tmp_path / "data" / "run" / "suite.json").exists()


@pytest.mark.usefixtures("_own_process_state")
@pytest.mark.parametrize("address", ["0.0.0.0:50055", "[::]:50055", ":50055"])
def test_links_need_an_address_that_clients_can_use(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str
):
    """A wildcard address is no host for links: the message names the setting that gives them one."""
    monkeypatch.setenv("REELHAUL_STORAGE_HTTP_ADDRESS", address)
    code, message = run_up(capfd)
    assert code == 2
    assert "REELHAUL_STORAGE_PUBLIC_URL" in message
    monkeypatch.setenv("REELHAUL_STORAGE_PUBLIC_URL", "https://media.example.org")
    assert passes(run_up(capfd))


def test_two_services_with_one_address():
    """Two services at one address would end each other for ever: up names both settings."""
    address = {"REELHAUL_JOBS_ADDRESS": "127.0.0.1:50099", "REELHAUL_STORAGE_ADDRESS": "127.0.0.1:50099"}
    code, message = run("up", **address)
    assert code == 2
    assert "REELHAUL_JOBS_ADDRESS" in message
    assert "REELHAUL_STORAGE_ADDRESS" in message


@pytest.mark.parametrize("owner", ["storage", "jobs", "gateway", "fetcher"])
def test_serve_requires_a_suite_token(owner: str):
    """A service without a suite token does not start: everyone could call its internal RPCs."""
    code, message = run("serve", owner)
    assert code == 2
    assert message.startswith("reelhaul: REELHAUL_SUITE_TOKEN is not set")


def test_workers_need_a_command_of_their_own():
    """Several workers of the gateway cannot run in the process of other services: serve names the setting."""
    settings = {"REELHAUL_SUITE_TOKEN": TOKEN, "REELHAUL_GATEWAY_WORKERS": "2"}
    code, message = run("serve", "gateway", "storage", **settings)
    check_refused(message, code, "REELHAUL_GATEWAY_WORKERS")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, message = run("serve", "gateway", **settings, REELHAUL_GATEWAY_ADDRESS=address)
    check_refused(message, code, "REELHAUL_GATEWAY_ADDRESS")


def test_serve_with_a_suite_token(tmp_path: Path):
    """With a suite token a single service serves until it is terminated."""
    environment = {
        **os.environ,
        "REELHAUL_SUITE_TOKEN": TOKEN,
        "REELHAUL_STORAGE_ADDRESS": "127.0.0.1:0",
        "REELHAUL_STORAGE_HTTP_ADDRESS": "127.0.0.1:0",
        "REELHAUL_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "reelhaul_runtime", "serve", "storage"]
    with running_process(command, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        with process.stderr:
            assert any(b'"serving"' in line for line in process.stderr)
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
        assert process.wait(20) == 0


def test_serve_jobs_requires_a_broker():
    """jobs without the URL of a broker names the setting, instead of being restarted for ever."""
    code, message = run("serve", "jobs", REELHAUL_SUITE_TOKEN=TOKEN, REELHAUL_JOBS_ADDRESS="127.0.0.1:0")
    assert code == 2
    assert "reelhaul: REELHAUL_NATS_URL is not set" in message


# --- what the settings name cannot be used


def check_refused(message: str, code: int, name: str) -> None:
    """Check that a command ended with one line for its operator, which begins with the setting's name."""
    assert code == 2, message
    lines = [line for line in message.splitlines() if line.startswith("reelhaul: ")]
    assert len(lines) == 1, message
    assert lines[0].startswith(f"reelhaul: {name}: ")
    assert "hunter2" not in message
    assert "restarting" not in message


@pytest.mark.parametrize(
    ("owner", "url"),
    [
        ("jobs", "postgresql://u:hunter2@127.0.0.1:1/db"),
        ("storage", "postgresql://u:hunter2@127.0.0.1:1/db"),
        ("jobs", "postgres://u:hunter2@no-such-host.invalid/db"),
        ("storage", "postgresql:///db?host=/no/such/folder&password=hunter2"),
        ("jobs", "sqlite:///no-database.db"),
        ("storage", "sqlite:///no-database.db"),
    ],
)
def test_database_that_cannot_be_opened(tmp_path: Path, owner: str, url: str):
    """A database that does not answer, or is none, ends serve and migrate with its setting's name."""
    (tmp_path / "no-database.db").write_text("This is a text. " * 1000)
    name = f"REELHAUL_{owner.upper()}_DATABASE_URL"
    settings = {"REELHAUL_SUITE_TOKEN": TOKEN, "REELHAUL_NATS_URL": "nats://127.0.0.1:1", name: url}
    code, message = run("serve", owner, **settings)
    check_refused(message, code, name)
    code, message = run("migrate", owner, **settings)
    check_refused(message, code, name)


@pytest.mark.parametrize("owner", ["jobs", "storage"])
def test_database_that_can_be_opened(owner: str):
    """Twin: migrate creates a new database."""
    code, message = run("migrate", owner, **{f"REELHAUL_{owner.upper()}_DATABASE_URL": "sqlite:///new.db"})
    assert code == 0, message


@pytest.mark.parametrize("owner", ["storage", "gateway", "fetcher"])
def test_serve_at_an_address_in_use(nats_url: str, owner: str):
    """serve at an address that another process holds ends with the setting's name."""
    name = f"REELHAUL_{owner.upper()}_ADDRESS"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, message = run(
            "serve", owner, REELHAUL_SUITE_TOKEN=TOKEN, REELHAUL_NATS_URL=nats_url, **{name: address}
        )
    check_refused(message, code, name)
    assert f"{address} is used by another process" in message


@pytest.mark.parametrize(("entry", "is_folder"), [("run", False), ("jobs.db", True), ("artifacts", False)])
def test_data_folder_that_cannot_be_used(tmp_path: Path, entry: str, is_folder: bool):
    """A data folder in which a file stands for a folder, or a folder for a file, ends up at once."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / entry).mkdir() if is_folder else (data / entry).write_text("")
    code, message = run("up", **{f"REELHAUL_{name}_ADDRESS": "127.0.0.1:0" for name in SERVERS})
    assert code == 2, message
    assert "REELHAUL_DATA_DIR: " in message or "REELHAUL_JOBS_DATABASE_URL: " in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("owner", "package"), [("jobs", "nats"), ("storage", "alembic"), ("jobs", "psycopg")]
)
def test_missing_package(tmp_path: Path, owner: str, package: str):
    """A service of which a package is not installed ends with what to install."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{package}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{package}'\")")
    url = {"REELHAUL_JOBS_DATABASE_URL": "postgresql://u@127.0.0.1:1/db"} if package == "psycopg" else {}
    code, message = run(
        "serve",
        owner,
        REELHAUL_SUITE_TOKEN=TOKEN,
        REELHAUL_NATS_URL="nats://127.0.0.1:1",
        PYTHONPATH=str(hidden),
        **url,
    )
    assert code == 2, message
    assert f"No module named '{package}'" in message
    assert "pip install 'reelhaul[all]'" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REELHAUL_JOBS_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/db"),
        ("REELHAUL_STORAGE_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/db"),
    ],
)
def test_up_ends_with_a_service_that_cannot_start(name: str, value: str):
    """up ends at once, instead of restarting a service that refuses its settings for ever."""
    addresses = {f"REELHAUL_{service}_ADDRESS": "127.0.0.1:0" for service in SERVERS}
    code, message = run("up", **addresses, **{name: value})
    assert code == 2, message
    assert f"{name}: the database cannot be opened" in message
    assert "hunter2" not in message
    assert "restarting" not in message


def test_up_needs_the_broker_of_its_credentials(tmp_path: Path):
    """The broker of up has a credential of its own: a file of another is refused, like a missing secret."""
    addresses = {f"REELHAUL_{service}_ADDRESS": "127.0.0.1:0" for service in SERVERS}
    code, message = run("up", **addresses, REELHAUL_NATS_CREDENTIALS=str(tmp_path / "user.creds"))
    assert (code, "REELHAUL_NATS_URL is not set" in message) == (2, True), message
    code, message = run("up", **addresses, REELHAUL_SUITE_TOKEN_FILE=str(tmp_path / "none"))
    assert (code, "REELHAUL_SUITE_TOKEN_FILE: " in message) == (2, True), message


# --- unknown settings


@pytest.mark.usefixtures("_own_process_state")
@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("REELHAUL_FETCHER_SLOT", "REELHAUL_FETCHER_SLOTS"),
        ("REELHAUL_GATEWAY_ADRESS", "REELHAUL_GATEWAY_ADDRESS"),
        ("REELHAUL_DATABASE_URL", "REELHAUL_JOBS_DATABASE_URL"),
    ],
)
def test_unknown_variables_are_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: str, nearest: str
):
    """A variable REELHAUL_* that no service reads is refused, with the nearest name of a setting."""
    monkeypatch.setenv(wrong, "3")
    assert run_up(capfd) == (2, f"reelhaul: {wrong} is not a setting: did you mean {nearest}?\n")
    monkeypatch.delenv(wrong)
    assert passes(run_up(capfd))


@pytest.mark.usefixtures("_own_process_state")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "REELHAUL_FETCHER_SLOT=3",
            ".env:2: REELHAUL_FETCHER_SLOT is not a setting: did you mean REELHAUL_FETCHER_SLOTS?",
        ),
        ("export reelhaul_fetcher_slot=3", ".env:2: REELHAUL_FETCHER_SLOT is not a setting"),
        ("REELHAUL_FETCHER_SLOTS: 3", ".env:2: this line is not NAME=value"),
        ("REELHAUL_FETCHER_SLOTS", ".env:2: REELHAUL_FETCHER_SLOTS has no value"),
        ("REELHAUL_XYZZY_QWERTY=1", ".env:2: REELHAUL_XYZZY_QWERTY is not a setting"),
    ],
)
def test_unknown_lines_of_env_file_are_refused(capfd: pytest.CaptureFixture[str], line: str, message: str):
    """A line of .env that sets nothing is refused with its number; those of other programs are not ours."""
    Path(".env").write_text(f"# comment\n{line}\nOTHER=1\nREELHAUL_FETCHER_SLOTS=3\n")
    code, printed = run_up(capfd)
    assert (code, printed[: len(message) + 10]) == (2, f"reelhaul: {message}")
    Path(".env").write_text(
        "# comment\nOTHER=1\nnot a line\nREELHAUL_FETCHER_SLOTS=3\nREELHAUL_SUITE_TOKEN=\n"
    )
    assert passes(run_up(capfd))


@pytest.mark.usefixtures("_own_process_state")
def test_env_file_that_is_no_text(capfd: pytest.CaptureFixture[str]):
    """A .env that cannot be read is named; there is no traceback."""
    Path(".env").write_bytes(b"\xff\xfe\x00")
    code, message = run_up(capfd)
    assert code == 2
    assert message.startswith("reelhaul: .env cannot be read: ")
    Path(".env").write_text("REELHAUL_FETCHER_SLOTS=3\n")
    assert passes(run_up(capfd))


@pytest.mark.parametrize("command", [("up",), ("up", "--status"), ("serve", "gateway"), ("migrate",)])
def test_every_command_refuses_unknown_settings(command: tuple[str, ...]):
    """All server commands refuse a line of .env with a typing error."""
    Path(".env").write_text("REELHAUL_FETCHER_SLOT=3\n")
    code, message = run(*command, REELHAUL_SUITE_TOKEN=TOKEN)
    assert code == 2
    assert message.startswith("reelhaul: .env:1: REELHAUL_FETCHER_SLOT is not a setting")


def test_cookie_commands_refuse_wrong_settings():
    """`reelhaul fetcher cookies` reports a wrong key without repeating it, as a usage error."""
    code, message = run(
        "fetcher", "cookies", "list", module="reelhaul.cli", REELHAUL_FETCHER_COOKIES_KEY="hunter2"
    )
    assert code == 2
    assert "REELHAUL_FETCHER_COOKIES_KEY" in message
    assert "hunter2" not in message
    code, message = run("fetcher", "cookies", "list", module="reelhaul.cli", REELHAUL_FETCHER_COOKIES_KEY=KEY)
    assert (code, message) == (0, "")


# --- the client's commands


def test_env_file_selects_the_server(monkeypatch: pytest.MonkeyPatch):
    """The command line calls the gateway of .env, as `up` serves it; the environment takes precedence."""
    with running_gateway() as gateway:
        Path(".env").write_text(f"REELHAUL_GATEWAY_ADDRESS={gateway.url.removeprefix('http://')}\n")
        result = CliRunner().invoke(reelhaul, ["jobs", "get", JOB, "--json"])
        assert result.exit_code == 0, result.output
        assert len(gateway.requests) == 1
        with running_gateway() as other:
            monkeypatch.setenv("REELHAUL_GATEWAY_ADDRESS", other.url)
            assert CliRunner().invoke(reelhaul, ["jobs", "get", JOB, "--json"]).exit_code == 0
            assert len(other.requests) == 1
        assert len(gateway.requests) == 1


def test_env_file_with_a_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The command line uses HTTPS if .env gives the gateway a certificate, and trusts SSL_CERT_FILE."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with running_gateway(context) as gateway:
        address = gateway.url.removeprefix("http://")
        Path(".env").write_text(
            f"REELHAUL_GATEWAY_ADDRESS={address}\nREELHAUL_GATEWAY_TLS_CERTIFICATE=chain.pem\n"
        )
        assert CliRunner().invoke(reelhaul, ["jobs", "get", JOB, "--json"]).exit_code == 1
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        result = CliRunner().invoke(reelhaul, ["jobs", "get", JOB, "--json"])
        assert result.exit_code == 0, result.output
        assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    "server",
    ["foo:bar", "8080", "http://", "ftp://127.0.0.1:8080", "127.0.0.1:99999", "http://[::1", "a b:1"],
)
def test_address_of_no_server(monkeypatch: pytest.MonkeyPatch, server: str):
    """A server that is no address is a usage error with the form to use, wherever it was set."""
    in_environment = {"REELHAUL_GATEWAY_ADDRESS": server}
    results = [
        CliRunner().invoke(reelhaul, ["jobs", "list", "--server", server]),
        CliRunner().invoke(reelhaul, ["jobs", "list"], env=in_environment),
    ]
    Path(".env").write_text(f"REELHAUL_GATEWAY_ADDRESS='{server}'\n")
    results.append(CliRunner().invoke(reelhaul, ["jobs", "list"]))
    for result in results:
        assert result.exit_code == 2
        assert "host:port or a URL, for example 127.0.0.1:8080" in " ".join(result.stderr.split())
        assert "bug" not in result.stderr


def test_addresses_of_a_server():
    """A host:port and a URL, with a slash at its end or not, are accepted."""
    with running_gateway() as gateway:
        for server in (gateway.url, f"{gateway.url}/", gateway.url.removeprefix("http://")):
            result = CliRunner().invoke(reelhaul, ["jobs", "get", JOB, "--json", "--server", server])
            assert result.exit_code == 0, result.output
        assert len(gateway.requests) == 3


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("pydantic", ["up"]),
        ("pydantic_settings", ["serve", "jobs"]),
        ("cryptography", ["fetcher", "cookies", "key"]),
    ],
)
def test_client_only_installation(missing: str, command: list[str]):
    """Without the packages of the servers their commands say what to install; that is no bug."""
    code = f"import sys; sys.modules[{missing!r}] = None; from reelhaul.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "pip install 'reelhaul[all]'" in result.stderr
    assert "bug" not in result.stderr


def test_installation_with_servers():
    """With the packages of the servers the same commands run."""
    code, message = run("up", "--status", module="reelhaul.cli")
    assert code == 3
    assert message.startswith("no suite runs on ")
