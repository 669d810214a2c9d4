"""The checks of ``reelhaul doctor`` about jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reelhaul_jobs.settings import Settings
from reelhaul_runtime.doctor.addresses import check_reachable
from reelhaul_runtime.doctor.check import Check, Finding, ok, warning
from reelhaul_runtime.doctor.databases import database_check


def checks() -> Sequence[Check]:
    """Return the checks of the database, of the identity provider, and of the key of webhooks."""
    settings = Settings()
    found = [
        database_check("jobs.database", settings.database_url, "reelhaul_jobs", "REELHAUL_JOBS_DATABASE_URL"),
        Check("jobs.seal_key", lambda: _check_seal_key(settings.jobs_seal_keys, settings.seal_key_path)),
    ]
    if issuer := settings.oidc_issuer:
        found.append(Check("jobs.oidc", lambda: check_reachable("REELHAUL_OIDC_ISSUER", issuer)))
    return found


def _check_seal_key(keys: str, file: Path) -> Finding:
    if keys:
        return ok("REELHAUL_JOBS_SEAL_KEYS encrypts the secrets of webhooks: keep it with the backups")
    if file.exists() and file.stat().st_mode & 0o077:
        return warning(f"{file}, the key of the secrets of webhooks, is open to others", f"chmod 600 {file}")
    return ok(f"the key of the secrets of webhooks is in {file}; backups contain it")
