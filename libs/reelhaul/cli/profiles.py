"""Profiles: servers by name, with their key and preferences, in a TOML file of the user.

The key is not in that file: it is in the system's keyring if the package keyring is installed, otherwise in a
file of its own that only the user can read.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import click

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CONFIG_FILE, _KEY_FOLDER = "config.toml", "keys"
# The name under which keys are in the keyring.
_KEYRING_SERVICE = "reelhaul"
_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Profile:
    """A server and how to use it; empty values are not set."""

    server: str = ""
    #: Where the API key is: "keyring", "file", or empty without one.
    key: str = ""
    #: Folder that files are saved into.
    output: str = ""
    #: What to do with existing files: skip, number or replace.
    on_exists: str = ""


@dataclass(frozen=True, slots=True)
class Profiles:
    """The profiles of a user."""

    by_name: dict[str, Profile] = field(default_factory=dict)
    #: Name of the profile that is used if none is named; empty without one.
    default: str = ""

    def find(self, name: str) -> Profile:
        """Return the profile *name*, or the default one if that is empty. Raises click.UsageError."""
        if not name:
            return self.by_name.get(self.default, Profile())
        if name not in self.by_name:
            known = ", ".join(self.by_name) or "none yet: `reelhaul config set` creates one"
            raise click.UsageError(f"there is no profile {name!r} in {config_file()}; there are: {known}")
        return self.by_name[name]


class ProfileName(click.ParamType[str]):
    """The name of a profile."""

    name = "profile"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _NAME.fullmatch(str(value)):
            self.fail("must be lower-case letters, digits, - and _, for example home", param, ctx)
        return str(value)


def config_file() -> Path:
    """Return the path of the file with the profiles; it may not exist."""
    return Path(click.get_app_dir("reelhaul")) / _CONFIG_FILE


def read_profiles() -> Profiles:
    """Return the profiles of the user. Raises click.UsageError if their file is not understood."""
    path = config_file()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise click.UsageError(f"{path} has more than {_MAX_BYTES} bytes")
        content = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return Profiles()
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from None
    tables = content.get("profiles", {})
    known = {each.name for each in fields(Profile)}
    if not isinstance(tables, dict) or content.keys() - {"default", "profiles"}:
        raise click.UsageError(f"{path} must have only `default` and tables [profiles.NAME]")
    for name, table in tables.items():
        if not isinstance(table, dict) or table.keys() - known:
            raise click.UsageError(f"{path}: [profiles.{name}] must have only {', '.join(sorted(known))}")
        if not all(isinstance(value, str) for value in table.values()):
            raise click.UsageError(f"{path}: the values of [profiles.{name}] must be text in quotes")
    return Profiles(
        {name: Profile(**table) for name, table in tables.items()}, str(content.get("default", ""))
    )


def write_profiles(profiles: Profiles) -> None:
    """Write the file with the profiles, at once or not at all. Raises click.ClickException."""
    lines = [f"default = {_quote(profiles.default)}"] if profiles.default else []
    for name, profile in profiles.by_name.items():
        lines += ["", f"[profiles.{name}]"]
        lines += [f"{key} = {_quote(value)}" for key, value in asdict(profile).items() if value]
    _write_private(config_file(), "\n".join(lines).lstrip("\n") + "\n")


def read_key(name: str, profile: Profile) -> str:
    """Return the API key of the profile; empty without one. Raises click.UsageError if it is missing."""
    try:
        if profile.key == "keyring":
            key = _keyring().get_password(_KEYRING_SERVICE, name)
        elif profile.key:
            key = _key_file(name).read_text(errors="replace")
        else:
            return ""
    except ImportError:
        raise click.UsageError(
            f"the key of the profile {name} is in the keyring: pip install 'reelhaul[keyring]'"
        ) from None
    except OSError as error:
        raise click.UsageError(f"the key of the profile {name} cannot be read: {error}") from None
    if not key:
        raise click.UsageError(
            f"the keyring has no key of the profile {name}: `reelhaul config set` stores it"
        )
    return str(key).strip()


def store_key(name: str, key: str) -> str:
    """Store the API key of the profile *name*; return where: "keyring" or "file"."""
    try:
        keyring = _keyring()
        keyring.set_password(_KEYRING_SERVICE, name, key)
    except Exception:
        # No package, or no keyring that is unlocked in this session, such as on a server.
        _write_private(_key_file(name), key + "\n")
        return "file"
    return "keyring"


def delete_key(name: str) -> None:
    """Delete the key of the profile *name*, wherever it is; a missing one is not an error."""
    with suppress(OSError):
        _key_file(name).unlink()
    with suppress(Exception):
        _keyring().delete_password(_KEYRING_SERVICE, name)


def _key_file(name: str) -> Path:
    return config_file().parent / _KEY_FOLDER / name


def _keyring() -> Any:
    import keyring

    return keyring


def _write_private(path: Path, text: str) -> None:
    """Write *text* into *path*, readable by the user alone, through a file beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None


def _quote(text: str) -> str:
    """Return *text* as a basic string of TOML, which those of JSON are."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
