"""Settings: what REELHAUL_* accepts, and how errors are described."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError

from reelhaul_runtime.settings import SuiteSettings, describe_errors, is_loopback

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the developer's own REELHAUL_* and the .env of the working directory."""
    for name in [name for name in os.environ if name.startswith("REELHAUL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults():
    """Without any setting all services listen on loopback, without authentication."""
    settings = SuiteSettings()
    assert settings.auth == "none"
    assert is_loopback(settings.gateway_address)
    assert settings.data_dir == Path("data")


@pytest.mark.parametrize("service", ["GATEWAY", "JOBS", "FETCHER", "STORAGE"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.168.1.5", "example.com", ""])
def test_no_authentication_beyond_loopback(monkeypatch: pytest.MonkeyPatch, service: str, host: str):
    """Without authentication an address beyond loopback is refused, by the name of its setting."""
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
