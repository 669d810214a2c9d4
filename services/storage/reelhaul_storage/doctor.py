"""The checks of ``reelhaul doctor`` about storage."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reelhaul_runtime.doctor.check import Check, Finding, ok, problem
from reelhaul_runtime.doctor.clock import check_clock
from reelhaul_runtime.doctor.databases import database_check
from reelhaul_runtime.doctor.machine import check_disk, existing_folder
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.settings import Settings

_SETTING = "REELHAUL_STORAGE_URL"


def checks() -> Sequence[Check]:
    """Return the checks of the catalog and of the backend."""
    settings = Settings()
    url = settings.url
    check_backend = _check_bucket if url.startswith("s3:") else _check_folder
    return [
        database_check(
            "storage.database", settings.database_url, "reelhaul_storage", "REELHAUL_STORAGE_DATABASE_URL"
        ),
        Check("storage.backend", lambda: check_backend(url, settings)),
    ]


def _check_folder(url: str, settings: Settings) -> Iterator[Finding]:
    folder = Path(unquote(urlsplit(url).path))
    existing = existing_folder(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield problem(f"this user cannot write into {existing}", f"change its owner, or {_SETTING}")
        return
    yield from check_disk(folder, _SETTING, settings.storage_reserve_bytes)
    work = settings.adopt_dir
    if folder.exists() and work.exists() and folder.stat().st_dev != work.stat().st_dev:
        yield ok(
            f"{folder} and {work} are on different disks",
            "on one disk finished files are renamed, not copied",
        )


def _check_bucket(url: str, settings: Settings) -> Iterator[Finding]:
    """Yield whether the bucket can be read. Only the health checks of a suite that runs write into it."""
    from reelhaul_storage.s3.bucket import Bucket, create_client  # imports boto3
    from reelhaul_storage.s3.location import parse_location

    location = parse_location(url)
    bucket = Bucket(location, create_client(location))
    try:
        start = datetime.now(UTC)
        date = bucket.get_server_time()
        end = datetime.now(UTC)
        bucket.check_exists()
    except BackendUnavailable as error:
        yield problem(f"bucket {location.bucket}: {error.text}", f"correct {_SETTING} or its credentials")
        return
    yield ok(f"bucket {location.bucket} exists, and the credentials may read it")
    # The header has seconds only.
    yield check_clock("S3", parsedate_to_datetime(date), start.replace(microsecond=0), end)
