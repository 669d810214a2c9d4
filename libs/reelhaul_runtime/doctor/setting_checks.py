"""Checks of the settings: names, values, combinations, and the files that hold secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from dotenv import dotenv_values

from reelhaul_runtime import service
from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.secret_files import SUFFIX
from reelhaul_runtime.server_addresses import is_loopback, may_be_several, split_addresses
from reelhaul_runtime.setting_names import variable_names
from reelhaul_runtime.settings import ENV_FILE, ERRORS, PREFIX, REPLICAS, InvalidSetting, describe_errors

#: How the names of settings end whose files are secrets.
_SECRET_PATHS = ("_key", "_key_file", "_credentials", "_cookies_file")
_REFERENCE = "docs/configuration.md and .env.example list all settings"


def checks() -> list[Check]:
    """Return the checks of the settings."""
    return [
        Check("settings.names", _check_names),
        Check("settings.values", _check_values),
        Check("settings.combinations", _check_combinations),
        Check("settings.files", _check_files),
    ]


def _check_names() -> Iterator[Finding]:
    try:
        service.check_setting_names()
    except InvalidSetting as error:
        yield from (problem(line, _REFERENCE) for line in str(error).splitlines())
        return
    known = {name for each in service.settings_classes() for name in variable_names(each)}
    in_environment = sum(name.upper() in known for name in os.environ)
    in_file = sum(name.upper() in known for name in dotenv_values(ENV_FILE))
    yield ok(f"all names are known; {in_environment} are set in the environment and {in_file} in {ENV_FILE}")


def _check_values() -> Iterator[Finding]:
    lines: dict[str, None] = {}
    for settings in service.settings_classes():
        try:
            settings()
        except ERRORS as error:
            lines |= dict.fromkeys(describe_errors(error))
    yield from (problem(line, _REFERENCE) for line in lines)
    if not lines:
        yield ok("all values are valid")


def _check_combinations() -> Iterator[Finding]:
    """Yield what is contradictory although each setting is valid for itself."""
    values: dict[str, object] = {}
    for settings in service.settings_classes():
        try:
            values |= dict(settings())
        except ERRORS:
            return  # reported already
    found = list(_find_contradictions(SimpleNamespace(**values)))
    yield from found or [ok("no contradictions")]


def _find_contradictions(s: SimpleNamespace) -> Iterator[Finding]:
    """Yield a finding for each contradiction in the settings *s*, of which some services may be missing."""
    several = [name for name in REPLICAS if may_be_several(getattr(s, name)) and getattr(s, name)]
    if "jobs_addresses" in several and not _is_postgresql(getattr(s, "jobs_database_url", "")):
        yield problem(
            "REELHAUL_JOBS_ADDRESSES names several replicas of jobs, and their database is SQLite",
            "set REELHAUL_JOBS_DATABASE_URL to a PostgreSQL database that all replicas use",
        )
    if "storage_addresses" in several and not _is_postgresql(getattr(s, "storage_database_url", "")):
        yield problem(
            "REELHAUL_STORAGE_ADDRESSES names several replicas of storage, and their catalog is SQLite",
            "set REELHAUL_STORAGE_DATABASE_URL to a PostgreSQL database that all replicas use",
        )
    is_apart = several or any(
        not is_loopback(each) for name in REPLICAS for each in split_addresses(getattr(s, name))
    )
    if is_apart and not s.suite_token:
        yield problem(
            "services run on several machines or as replicas, and REELHAUL_SUITE_TOKEN is not set",
            "set it to the same secret for all, for example of `openssl rand -hex 32`",
        )
    workers = getattr(s, "gateway_workers", 1)
    if (workers > 1 or several) and not s.rate_limit_url:
        yield warning(
            "each process counts calls for itself, so that the rate limits are those of each",
            "set REELHAUL_RATE_LIMIT_URL to a Redis or Valkey that counts for all",
        )
    if not is_loopback(s.gateway_address):
        yield from _check_public(s)


def _check_public(s: SimpleNamespace) -> Iterator[Finding]:
    if s.gateway_tls_certificate is None and not getattr(s, "gateway_trusted_proxies", ()):
        yield warning(
            f"the gateway at {s.gateway_address} has no certificate: keys pass in plain text",
            "set REELHAUL_GATEWAY_TLS_CERTIFICATE and _KEY, or put a reverse proxy in front of it and set"
            " REELHAUL_GATEWAY_TRUSTED_PROXIES",
        )
    on_disk = not getattr(s, "storage_url", "").startswith("s3:")
    if on_disk and is_loopback(s.storage_http_address) and not getattr(s, "storage_public_url", ""):
        yield warning(
            "the gateway can be reached from other machines, and signed links only from this one",
            "set REELHAUL_STORAGE_PUBLIC_URL to where clients reach REELHAUL_STORAGE_HTTP_ADDRESS",
        )
    if s.auth == "none":
        yield warning(
            "REELHAUL_AUTH=none: whoever reaches the gateway may do everything",
            "set REELHAUL_AUTH=keys unless a gateway in front of it authenticates callers",
        )


def _check_files() -> Iterator[Finding]:
    """Yield a finding for each file of secrets that other users can read."""
    files = dict(_secret_files())
    open_files = {name: file for name, file in files.items() if file.is_file() and _is_open(file)}
    for name, file in open_files.items():
        mode = stat.S_IMODE(file.stat().st_mode)
        what = str(file) if name == ENV_FILE else f"{name}: {file}"
        yield warning(f"{what} can be read by other users (mode {mode:04o})", f"chmod 600 {file}")
    if not open_files:
        count = sum(file.is_file() for file in files.values())
        yield ok(f"{count} files with secrets, none of which other users can read")


def _secret_files() -> Iterator[tuple[str, Path]]:
    """Yield the files with secrets that settings name, by the variable, and .env."""
    for name, value in os.environ.items():
        if name.startswith(PREFIX) and name.endswith(SUFFIX) and value:
            yield name, Path(value)
    for settings in service.settings_classes():
        try:
            values = dict(settings())
        except ERRORS:
            continue
        for name, value in values.items():
            if isinstance(value, Path) and name.endswith(_SECRET_PATHS):
                yield f"{PREFIX}{name.upper()}", value
    yield ENV_FILE, Path(ENV_FILE)


def _is_open(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o044)


def _is_postgresql(url: str) -> bool:
    return url.startswith(("postgresql:", "postgres:"))
