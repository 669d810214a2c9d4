"""Profiles of the command line: servers and keys by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from tests.libs.fake_gateway import FakeGateway, running_gateway

from reelhaul.api_keys import create_key_string
from reelhaul.cli.commands import reelhaul

KEY, OTHER = create_key_string(), create_key_string()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the configuration, of a user who has none; no keyring is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("REELHAUL_API_KEY", "REELHAUL_API_KEY_FILE", "REELHAUL_GATEWAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "keyring", None)
    return tmp_path / "config" / "reelhaul"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with running_gateway() as running:
        yield running


def run(*arguments: str, key: str | None = None) -> Result:
    result = CliRunner().invoke(reelhaul, arguments, input=key)
    assert "Traceback" not in result.output
    return result


def authorization(gateway: FakeGateway) -> str | None:
    """Return the credential of the last call."""
    return gateway.requests[-1][1].get("authorization")


def test_profile_is_used(gateway, folder):
    """The first profile is the default: its server and key are used. Only the user can read the key."""
    assert run("config", "set", "home", "--server", gateway.url, "--api-key", key=KEY).exit_code == 0
    assert run("jobs", "list").exit_code == 0
    assert authorization(gateway) == f"Bearer {KEY}"
    assert KEY not in (folder / "config.toml").read_text()
    assert (folder / "keys" / "home").stat().st_mode & 0o777 == 0o600
    assert (folder / "config.toml").stat().st_mode & 0o777 == 0o600


def test_order(gateway, folder, monkeypatch):
    """A profile that is named goes before the environment, which goes before the default profile."""
    run("config", "set", "home", "--server", gateway.url, "--api-key", key=KEY)
    with running_gateway() as other:
        monkeypatch.setenv("REELHAUL_GATEWAY_ADDRESS", other.url)
        monkeypatch.setenv("REELHAUL_API_KEY", OTHER)
        run("jobs", "list")
        assert authorization(other) == f"Bearer {OTHER}"
        run("jobs", "list", "--profile", "home")
        assert authorization(gateway) == f"Bearer {KEY}"
        run("jobs", "list", "--profile", "home", "--api-key", OTHER)
        assert authorization(gateway) == f"Bearer {OTHER}"


def test_the_key_of_a_profile_goes_to_its_server_only(gateway):
    """Neither another server of the command line nor a new server of the profile gets the key."""
    run("config", "set", "home", "--server", gateway.url, "--api-key", key=KEY)
    with running_gateway() as other:
        run("jobs", "list", "--profile", "home", "--server", other.url)
        assert authorization(other) is None
        changed = run("config", "set", "home", "--server", other.url)
        assert "key of the old server is deleted" in changed.stderr
        run("jobs", "list", "--profile", "home")
        assert authorization(other) is None
    assert gateway.requests == []


def test_preferences(gateway, tmp_path):
    """The folder and the rule of existing files of a profile are those of its downloads."""
    videos = tmp_path / "videos"
    run("config", "set", "home", "--server", gateway.url, "-o", str(videos), "--on-exists", "replace")
    videos.mkdir()
    (videos / "A video.mp4").write_text("another")
    assert run("download", "https://a.example/v").exit_code == 0
    assert [path.name for path in videos.iterdir()] == ["A video.mp4"]
    assert run("download", "https://a.example/v", "-o", str(tmp_path / "here")).exit_code == 0
    assert (tmp_path / "here" / "A video.mp4").exists()


def test_keyring(gateway, folder, monkeypatch):
    """With the package keyring the key is in the keyring, and in no file."""
    stored: dict[tuple[str, str], str] = {}
    keyring = SimpleNamespace(
        get_password=lambda service, name: stored.get((service, name)),
        set_password=lambda service, name, key: stored.update({(service, name): key}),
        delete_password=lambda service, name: stored.pop((service, name)),
    )
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    run("config", "set", "home", "--server", gateway.url, "--api-key", key=KEY)
    assert stored == {("reelhaul", "home"): KEY}
    assert not (folder / "keys").exists()
    run("jobs", "list")
    assert authorization(gateway) == f"Bearer {KEY}"
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert "pip install 'reelhaul[keyring]'" in run("jobs", "list").stderr
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    run("config", "delete", "home")
    assert stored == {}


def test_commands(gateway):
    """Profiles are listed and shown without keys, one is made the default, and deleted ones are gone."""
    run("config", "set", "home", "--server", gateway.url, "--api-key", key=KEY)
    run("config", "set", "work", "--server", "10.0.0.7:8080")
    assert [line.split("\t")[:2] for line in run("config", "list").stdout.splitlines()] == [
        ["*", "home"],
        ["-", "work"],
    ]
    run("config", "use", "work")
    assert "10.0.0.7:8080" in run("config", "show").stdout
    shown = run("config", "show", "home").stdout
    assert "in the file" in shown
    assert KEY not in shown
    run("config", "delete", "work")
    assert "no profile 'work'" in run("jobs", "list", "--profile", "work").stderr


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("default = ", "cannot be read"),
        ("server = 'x'", "only `default` and tables"),
        ("[profiles.home]\npassword = 'x'", "must have only"),
        ("[profiles.home]\nserver = 1", "must be text in quotes"),
        ("[profiles]\nhome = 1", "must have only"),
        ("profiles = 1", "only `default` and tables"),
    ],
)
def test_broken_file(folder, content, problem):
    """A file that is not understood is an error with its path, and nothing is called."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(content)
    result = run("jobs", "list")
    assert result.exit_code == 2
    assert str(folder / "config.toml") in result.stderr.replace("\n", "")
    assert problem in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["set", "Home", "--server", "x:1"], "lower-case letters"),
        (["set", "../home", "--server", "x:1"], "lower-case letters"),
        (["set", "home"], "needs --server"),
        (["set", "home", "--server", "8080"], "host:port"),
        (["set", "home", "--server", "x:1", "--api-key"], "the checksum"),
        (["use", "home"], "no profile 'home'"),
    ],
)
def test_invalid_arguments(folder, arguments, problem):
    """Nothing is written if an argument is invalid."""
    result = run("config", *arguments, key=KEY[:-1] + ("0" if KEY[-1] != "0" else "1"))
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.split())
    assert not (folder / "config.toml").exists()


def test_unusual_values_survive(gateway, tmp_path):
    """A folder with quotes, backslashes and letters of any script is read as it was written."""
    name = 'a "b" \\n 題名 😀'
    run("config", "set", "home", "--server", gateway.url, "-o", str(tmp_path / name))
    assert run("download", "https://a.example/v").exit_code == 0
    assert (tmp_path / name / "A video.mp4").exists()
