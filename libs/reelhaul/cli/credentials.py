"""The API key of the command line: from .env, or the one that `reelhaul up` has stored on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click
from dotenv import dotenv_values

from reelhaul._core.credentials import API_KEY_VARIABLE, find_api_key
from reelhaul._core.loopback import is_loopback
from reelhaul.api_keys import check_credential

_DATA_DIR_VARIABLE = "REELHAUL_DATA_DIR"
_DEFAULT_DATA_DIR = "data"
# What `reelhaul up` writes into the data folder: its address, and its key.
_RUN_FOLDER, _STATE_FILE, _KEY_FILE = "run", "suite.json", "api-key"
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def read_env_file() -> Mapping[str, str | None]:
    """Return the settings of the .env file that `reelhaul up` reads here, by upper-case name."""
    try:
        values = dotenv_values(".env")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f".env cannot be read: {error}") from None
    return {name.upper(): value for name, value in values.items()}


def resolve_api_key(option: str, server: str, find_profile_key: Callable[[], str] = str) -> str:
    """Return the key to call *server* with; empty without one.

    It is *option*, or that of the environment, of .env, of the profile, or of the suite on this machine.

    Raises click.UsageError if the key is mistyped.
    """
    values = read_env_file()
    try:
        key = option.strip() or find_api_key(os.environ) or find_api_key(values) or find_profile_key()
        if not key:
            folder = os.environ.get(_DATA_DIR_VARIABLE) or values.get(_DATA_DIR_VARIABLE) or _DEFAULT_DATA_DIR
            key = _find_stored_key(Path(folder) / _RUN_FOLDER, server)
        return check_credential(key)
    except ValueError as error:
        raise click.UsageError(f"{error}; --api-key, {API_KEY_VARIABLE} or .env sets it") from None


def _find_stored_key(folder: Path, server: str) -> str:
    """Return the key in *folder* if *server* is the gateway of the suite that runs on it; else empty.

    Another program may listen at that address while the suite does not run.
    """
    try:
        state = json.loads((folder / _STATE_FILE).read_text())
        os.kill(int(state["pid"]), 0)
        if not is_same_server(str(state["addresses"]["gateway"]), server):
            return ""
        return (folder / _KEY_FILE).read_text(errors="replace").strip()
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def is_same_server(gateway: str, server: str) -> bool:
    """Return whether *server*, a URL or host:port, is *gateway*: loopback names are alike."""
    own, called = urlsplit(gateway), urlsplit(server if "://" in server else f"http://{server}")
    if (own.scheme, own.port) != (called.scheme, called.port):
        return False
    host, called_host = own.hostname or "", called.hostname or ""
    listens_on_loopback = is_loopback(host) or host in _ALL_ADDRESSES
    return host == called_host or (listens_on_loopback and is_loopback(called_host))
