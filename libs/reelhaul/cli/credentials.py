"""The API key of the command line: from .env, or the one that `reelhaul up` has stored on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click
from dotenv import dotenv_values

from reelhaul._core.credentials import API_KEY_VARIABLE
from reelhaul._core.loopback import is_loopback
from reelhaul.api_keys import check_credential

_DATA_DIR_VARIABLE = "REELHAUL_DATA_DIR"
_DEFAULT_DATA_DIR = "data"
# Where `reelhaul up` stores the key, in the data folder.
_KEY_FILE = Path("run", "api-key")


def read_env_file() -> Mapping[str, str | None]:
    """Return the settings of the .env file that `reelhaul up` reads here, by upper-case name."""
    try:
        values = dotenv_values(".env")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f".env cannot be read: {error}") from None
    return {name.upper(): value for name, value in values.items()}


def resolve_api_key(given: str, server: str, local_server: str) -> str:
    """Return the key to call *server* with: *given*, or that of .env, or the suite's own; empty without one.

    The suite's own key, in its data folder, is sent to this machine and to *local_server* only, the address
    that the suite's settings name. Raises click.UsageError if the key is mistyped.
    """
    values = read_env_file()
    key = given or values.get(API_KEY_VARIABLE) or ""
    if not key and (is_loopback(_host(server)) or server == local_server):
        folder = os.environ.get(_DATA_DIR_VARIABLE) or values.get(_DATA_DIR_VARIABLE) or _DEFAULT_DATA_DIR
        key = _read_stored_key(Path(folder))
    try:
        return check_credential(key.strip())
    except ValueError as error:
        raise click.UsageError(f"{error}; --api-key, {API_KEY_VARIABLE} or .env sets it") from None


def _read_stored_key(data_dir: Path) -> str:
    try:
        return (data_dir / _KEY_FILE).read_text(errors="replace").strip()
    except OSError:
        return ""


def _host(server: str) -> str:
    return urlsplit(server if "://" in server else f"//{server}").hostname or ""
