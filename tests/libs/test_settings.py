"""Settings: what REELHAUL_* accepts, and how errors are described."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.tls_files import Authority

from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.server_addresses import is_loopback
from reelhaul_runtime.setting_names import variable_names
from reelhaul_runtime.settings import ERRORS, SuiteSettings, describe_errors

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the developer's own REELHAUL_* and the .env of the working directory."""
    for name in [name for name in os.environ if name.startswith("REELHAUL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults():
    """Without any setting all services listen on loopback, and callers need keys."""
    settings = SuiteSettings()
    assert settings.auth == "keys"
    assert is_loopback(settings.gateway_address)
    assert settings.data_dir == Path("data")


@pytest.mark.parametrize("service", ["GATEWAY", "JOBS", "FETCHER", "STORAGE"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.5", "example.com", ""])
def test_no_authentication_beyond_loopback(monkeypatch: pytest.MonkeyPatch, service: str, host: str):
    """Without authentication an address beyond loopback is refused, by the name of its setting."""
    monkeypatch.setenv("REELHAUL_AUTH", "none")
    monkeypatch.setenv(f"REELHAUL_{service}_ADDRESS", f"{host}:9000")
    with pytest.raises(ValidationError) as refused:
        SuiteSettings()
    (line,) = describe_errors(refused.value)
    assert line.startswith(f"REELHAUL_{service}_ADDRESS={host}:9000 is not a loopback address")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_is_loopback(address: str):
    """All of 127/8, ::1 and localhost are loopback addresses."""
    assert is_loopback(address)


def test_env_file_is_read(tmp_path: Path):
    """A .env in the working directory is read; other programs' lines in it are ignored."""
    (tmp_path / ".env").write_text("REELHAUL_JOBS_ADDRESS=127.0.0.1:7000\nOTHER=1\nREELHAUL_LATER=x\n")
    assert SuiteSettings().jobs_address == "127.0.0.1:7000"


def test_environment_overrides_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The environment takes precedence over .env."""
    (tmp_path / ".env").write_text("REELHAUL_JOBS_ADDRESS=127.0.0.1:7000\n")
    monkeypatch.setenv("REELHAUL_JOBS_ADDRESS", "127.0.0.1:7001")
    assert SuiteSettings().jobs_address == "127.0.0.1:7001"


def test_errors_name_the_setting_and_no_value(monkeypatch: pytest.MonkeyPatch):
    """Each error is a line with the variable's name; the value, which may be a secret, is not repeated."""
    monkeypatch.setenv("REELHAUL_LOG_LEVEL", "hunter2")
    monkeypatch.setenv("REELHAUL_DRAIN_SECONDS", "hunter2")
    with pytest.raises(ValidationError) as refused:
        SuiteSettings()
    lines = describe_errors(refused.value)
    assert [line.partition(":")[0] for line in lines] == ["REELHAUL_LOG_LEVEL", "REELHAUL_DRAIN_SECONDS"]
    assert "hunter2" not in "".join(lines)


def test_token_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    """The suite token does not appear in the repr of the settings."""
    monkeypatch.setenv("REELHAUL_SUITE_TOKEN", "hunter2")
    assert "hunter2" not in repr(SuiteSettings())


def env_example() -> dict[str, str]:
    """Return the settings of .env.example with their values."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line[1:].split("=", 1) for line in lines if line.startswith("#REELHAUL_"))


def all_settings() -> list[type[SuiteSettings]]:
    """Return the suite's settings and those of each service in this checkout."""
    modules = (f"reelhaul_{name}.settings" for name in ("gateway", "jobs", "fetcher", "storage"))
    return [SuiteSettings, *(import_module(module).Settings for module in modules if find_spec(module))]


@pytest.mark.parametrize("settings", all_settings(), ids=lambda each: each.__module__)
def test_env_example_is_complete(settings: type[SuiteSettings]):
    """.env.example has every setting with its default."""
    example = env_example()
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        text = "" if default is None or default == () else str(default)
        assert example.get(f"REELHAUL_{name.upper()}") == text, f"REELHAUL_{name.upper()} in .env.example"


@pytest.mark.skipif(len(all_settings()) < 5, reason="not all services are in this checkout")
def test_env_example_has_nothing_else():
    """.env.example names no setting that no service reads."""
    known = {f"REELHAUL_{name.upper()}" for settings in all_settings() for name in settings.model_fields}
    assert set(env_example()) == known


def test_secrets_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A secret may be in a file that the environment or .env names; its last line break is no part of it."""
    (tmp_path / "token").write_text("of a file\n")
    (tmp_path / "broker").write_text("nats://hunter2@127.0.0.1:4222")
    (tmp_path / ".env").write_text(f"REELHAUL_NATS_URL_FILE={tmp_path / 'broker'}\n")
    monkeypatch.setenv("REELHAUL_SUITE_TOKEN_FILE", str(tmp_path / "token"))
    settings = SuiteSettings()
    assert settings.suite_token == "of a file"
    assert settings.nats_url == "nats://hunter2@127.0.0.1:4222"
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("REELHAUL_NATS_URL", "nats://127.0.0.1:4223")
    assert SuiteSettings().nats_url == "nats://127.0.0.1:4223", "the environment takes precedence over .env"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\xff", "is not UTF-8"),
        (b"hunter2" * 10_000, "has more than 65,536 bytes"),
    ],
)
def test_errors_of_secret_files_name_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, problem: str
):
    """A file of a secret that cannot be used is refused by the name of its setting, without its content."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("REELHAUL_SUITE_TOKEN_FILE", str(file))
    with pytest.raises(ERRORS) as refused:
        SuiteSettings()
    assert describe_errors(refused.value) == [f"REELHAUL_SUITE_TOKEN_FILE: {file} {problem}"]


def test_secret_has_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A secret that is set and has a file as well is refused; an invalid one is named and not shown."""
    (tmp_path / "token").write_text("hunter2\0")
    monkeypatch.setenv("REELHAUL_SUITE_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ERRORS) as refused:
        SuiteSettings()
    (line,) = describe_errors(refused.value)
    assert line.startswith("REELHAUL_SUITE_TOKEN: must be printable")
    monkeypatch.setenv("REELHAUL_SUITE_TOKEN", "hunter3")
    with pytest.raises(ERRORS) as refused:
        SuiteSettings()
    (line,) = describe_errors(refused.value)
    assert line == "REELHAUL_SUITE_TOKEN and REELHAUL_SUITE_TOKEN_FILE are both set: remove one of them"


#: Secrets, and settings that are none or are files already.
SECRETS = {
    "REELHAUL_SUITE_TOKEN",
    "REELHAUL_NATS_URL",
    "REELHAUL_RATE_LIMIT_URL",
    "REELHAUL_JOBS_DATABASE_URL",
    "REELHAUL_STORAGE_DATABASE_URL",
    "REELHAUL_STORAGE_LINK_KEYS",
    "REELHAUL_STORAGE_SEAL_KEYS",
    "REELHAUL_FETCHER_UPSTREAM_PROXY",
    "REELHAUL_FETCHER_UPSTREAM_PROXIES",
    "REELHAUL_FETCHER_TRANSLATOR_KEY",
    "REELHAUL_FETCHER_COOKIES_KEY",
}
NO_SECRETS = {
    "REELHAUL_JOBS_ADDRESS",
    "REELHAUL_FETCHER_COOKIES_FILE",
    "REELHAUL_STORAGE_CLOUDFRONT_KEY_FILE",
}


def test_every_secret_may_be_in_a_file():
    """Each secret of each service has a variable for its file; other settings have none."""
    names = {name for settings in all_settings() for name in variable_names(settings)}
    assert {f"{name}_FILE" for name in SECRETS} <= names
    assert names.isdisjoint(f"{name}_FILE" for name in NO_SECRETS)


def test_no_authentication_in_a_private_network(monkeypatch: pytest.MonkeyPatch):
    """REELHAUL_AUTH=none is accepted beyond loopback if a setting says so; with keys any address is."""
    monkeypatch.setenv("REELHAUL_GATEWAY_ADDRESS", "192.168.1.5:8080")
    monkeypatch.setenv("REELHAUL_JOBS_ADDRESSES", "10.0.0.1:50051,10.0.0.2:50051")
    monkeypatch.setenv("REELHAUL_AUTH", "none")
    with pytest.raises(ValidationError, match=r"GATEWAY_ADDRESS=[0-9.:]+ is not a loopback"):
        SuiteSettings()
    monkeypatch.setenv("REELHAUL_ALLOW_UNAUTHENTICATED_NETWORK", "true")
    assert SuiteSettings().gateway_address == "192.168.1.5:8080"
    monkeypatch.delenv("REELHAUL_ALLOW_UNAUTHENTICATED_NETWORK")
    monkeypatch.setenv("REELHAUL_AUTH", "keys")
    assert SuiteSettings().gateway_address == "192.168.1.5:8080"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://127.0.0.1",
        "redis://:hunter2@[::1]:6379/1",
        "rediss://me:hunter2@redis.example:6380/0?x=y",
    ],
)
def test_address_of_the_rate_limit_counters(url: str):
    """Rate limits may be counted in a Redis or Valkey, with or without TLS; the password is not shown."""
    settings = SuiteSettings(rate_limit_url=url)
    assert settings.rate_limit_url == url
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:6379", "http://hunter2@127.0.0.1", "redis://", "redis://:hunter2@host:port", "hunter2"]
)
def test_wrong_address_of_the_rate_limit_counters(url: str):
    """Another address is refused by the name of the setting, without its password."""
    with pytest.raises(ValidationError) as refused:
        SuiteSettings(rate_limit_url=url)
    (line,) = describe_errors(refused.value)
    assert line.startswith("REELHAUL_RATE_LIMIT_URL: must be redis://")
    assert "hunter2" not in line


def test_files_for_tls_between_services(tmp_path: Path):
    """Files for TLS between services are checked at start, and errors name the setting; twin: usable ones."""
    files = Authority().issue(tmp_path / "service", "reelhaul.internal")
    text = tmp_path / "notes.txt"
    text.write_text("no certificate")
    usable = {"tls_certificate": files.certificate, "tls_key": files.key, "tls_ca": files.ca}
    assert SuiteSettings().tls is None
    assert SuiteSettings(**usable, tls_service_name="reelhaul.internal").tls == files
    for changes, problem in (
        ({"tls_key": None}, "REELHAUL_TLS_KEY is not set"),
        ({"tls_certificate": None}, "REELHAUL_TLS_CERTIFICATE is not set"),
        ({"tls_certificate": text}, f"REELHAUL_TLS_CERTIFICATE: {text} has no certificate"),
        ({"tls_ca": text}, f"REELHAUL_TLS_CA: {text} has no certificate"),
        ({"tls_ca": tmp_path / "none"}, "REELHAUL_TLS_CA: .*none cannot be read: No such file"),
        ({"tls_ca": None, "tls_service_name": "reelhaul.internal"}, "REELHAUL_TLS_SERVICE_NAME needs"),
        ({"tls_service_name": "two words"}, "tls_service_name"),
        (
            {"tls_service_name": "jobs.internal"},
            "is not for the DNS name jobs.internal, but for ree",
        ),
    ):
        with pytest.raises(ValidationError, match=problem):
            SuiteSettings(**usable | changes)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("nats://a:4222, nats://b:4222,nats://[::1]", "nats://a:4222,nats://b:4222,nats://[::1]"),
        ("tls://hunter2@a,tls://hunter2@b:4223", "tls://hunter2@a,tls://hunter2@b:4223"),
    ],
)
def test_servers_of_a_cluster(text: str, url: str):
    """The broker may be a cluster: its servers, comma separated; their credentials are not shown."""
    settings = SuiteSettings(nats_url=text)
    assert settings.nats_url == url
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in redact_urls(settings.nats_url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nats://a,b", "must be nats://host:port"),
        ("nats://a,tls://b", "must begin with tls:// for each server or for none"),
        ("nats://hunter2@a,nats://b", "must have the same user and password, or token, for each server"),
    ],
)
def test_wrong_servers_of_a_cluster(url: str, text: str):
    """The servers of a cluster are URLs of one kind with one credential, which the refusal does not show."""
    with pytest.raises(ValidationError) as refused:
        SuiteSettings(nats_url=url)
    (line,) = describe_errors(refused.value)
    assert line.startswith(f"REELHAUL_NATS_URL: {text}")
    assert "hunter2" not in line
