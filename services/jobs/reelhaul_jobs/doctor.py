"""The checks of ``reelhaul doctor`` about jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from reelhaul_jobs.nats.bus import WORK
from reelhaul_jobs.settings import Settings
from reelhaul_runtime import nats_client
from reelhaul_runtime.doctor.addresses import check_reachable
from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.doctor.databases import database_check
from reelhaul_runtime.settings import InvalidSetting

_SECONDS = 10.0


def checks() -> Sequence[Check]:
    """Return the checks of the database, the streams, the identity provider, and the key of webhooks."""
    settings = Settings()
    found = [
        database_check("jobs.database", settings.database_url, "reelhaul_jobs", "REELHAUL_JOBS_DATABASE_URL"),
        Check("jobs.seal_key", lambda: _check_seal_key(settings.jobs_seal_keys, settings.seal_key_path)),
    ]
    if settings.jobs_stream_replicas > 1:
        found.append(Check("jobs.streams", lambda: asyncio.run(_check_streams(settings))))
    if issuer := settings.oidc_issuer:
        found.append(Check("jobs.oidc", lambda: check_reachable("REELHAUL_OIDC_ISSUER", issuer)))
    return found


async def _check_streams(settings: Settings) -> Finding:
    """Return whether the streams have the replicas of the settings, or may get them at the next start."""
    setting = f"REELHAUL_JOBS_STREAM_REPLICAS={settings.jobs_stream_replicas}"
    if not settings.nats_url:
        return problem(
            f"{setting}: `reelhaul up` starts a broker of one server", "set REELHAUL_NATS_URL to a cluster"
        )
    try:
        async with (
            asyncio.timeout(_SECONDS),
            nats_client.connect(settings.nats_url, "doctor", security=settings.nats_security) as client,
        ):
            config = (await client.jetstream().stream_info(WORK)).config
    except NotFoundError:
        return ok(f"{setting}: jobs creates the streams when it starts, if the cluster has so many servers")
    except (InvalidSetting, NatsError, TimeoutError) as error:
        return problem(f"the broker does not describe the stream {WORK}: {error!r}", "see the check broker")
    if config.num_replicas == settings.jobs_stream_replicas:
        return ok(f"{setting}: so many servers keep the work stream")
    return problem(
        f"{setting}: the work stream has {config.num_replicas}",
        "start so many servers of the cluster with JetStream; jobs changes the stream then",
    )


def _check_seal_key(keys: str, file: Path) -> Finding:
    if keys:
        return ok("REELHAUL_JOBS_SEAL_KEYS encrypts the secrets of webhooks: keep it with the backups")
    if file.exists() and file.stat().st_mode & 0o077:
        return warning(f"{file}, the key of the secrets of webhooks, is open to others", f"chmod 600 {file}")
    return ok(f"the key of the secrets of webhooks is in {file}; backups contain it")
