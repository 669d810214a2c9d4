"""Backup of storage: its catalog and blobs, and how a restored catalog is made to match the blobs that exist.

Of a snapshot, which may have an older schema, only tables and columns of the first revision are read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reelhaul_runtime.service import ServiceData, StoredFile
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.sql import engines
from reelhaul_storage.disk.files import pause_deletion
from reelhaul_storage.settings import Settings

_BLOBS = """
    SELECT key, size, sha256 FROM blobs
    WHERE EXISTS (SELECT 1 FROM artifacts WHERE artifacts.key = blobs.key)
"""
_REMOVE_MISSING = """
    DELETE FROM artifacts WHERE key IN (SELECT key FROM missing);
    -- What was staged is not in a backup, and a finished upload is of no use without its artifact.
    DELETE FROM uploads WHERE artifact NOT IN (SELECT id FROM artifacts);
    DELETE FROM blobs WHERE key NOT IN (SELECT key FROM artifacts);
    DELETE FROM doomed;
    -- The blobs are where the settings say.
    UPDATE blob_location SET generation = generation + 1, url = '', previous_url = '';
"""


def describe_data(data_dir: Path) -> ServiceData:
    """Return what storage keeps with *data_dir*. Raises InvalidSetting while its blobs are moved."""
    settings = Settings(data_dir=data_dir)
    url = urlsplit(_find_location(settings.database_url) or settings.url)
    on_disk = url.scheme == "file"
    blobs = StoredBlobs(Path(unquote(url.path)))
    return ServiceData(
        database_url=settings.database_url,
        database_setting="REELHAUL_STORAGE_DATABASE_URL",
        package="reelhaul_storage",
        private={settings.seal_key_path.name: settings.seal_key_path},
        stored={"blobs": blobs} if on_disk else {},
        stored_elsewhere="" if on_disk else "REELHAUL_STORAGE_URL",
        after_restore=lambda: remove_missing(settings.database_url, blobs if on_disk else None),
    )


class StoredBlobs:
    """Implements ``StoredFiles`` with the blobs of a disk store in *folder* that artifacts refer to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self) -> AbstractContextManager[None]:
        return pause_deletion(self._folder)

    def list_all(self, database: sqlite3.Connection) -> Iterator[StoredFile]:
        return map(self._from_row, database.execute(f"{_BLOBS} ORDER BY key"))

    def find(self, database: sqlite3.Connection, key: str) -> StoredFile | None:
        row = database.execute(f"{_BLOBS} AND key = ?", (key,)).fetchone()
        return None if row is None else self._from_row(row)

    def _from_row(self, row: tuple[str, int, str]) -> StoredFile:
        key, size, sha256 = row
        return StoredFile(key, self._folder / "blobs" / key, size, sha256)


def remove_missing(database_url: str, blobs: StoredBlobs | None) -> None:
    """Remove from the catalog what has no bytes: artifacts whose blob is missing, and unfinished uploads.

    Their jobs show such files as they show expired ones. *blobs* None: the bytes are not on this machine,
    and taken to be complete.
    """
    with closing(sqlite3.connect(engines.sqlite_path(database_url))) as database, database:
        database.execute("CREATE TEMP TABLE missing (key TEXT PRIMARY KEY)")
        if blobs is not None:
            missing = [(blob.key,) for blob in blobs.list_all(database) if not _exists(blob)]
            database.executemany("INSERT INTO missing VALUES (?)", missing)
        for statement in _REMOVE_MISSING.split(";"):
            database.execute(statement)


def _find_location(database_url: str) -> str:
    """Return the URL to which the blobs were moved; empty if they were not, or if there is no catalog."""
    if not engines.is_sqlite(database_url) or not (path := engines.sqlite_path(database_url)).exists():
        return ""
    with closing(sqlite3.connect(path)) as database:
        try:
            url, previous_url = database.execute("SELECT url, previous_url FROM blob_location").fetchone()
        except sqlite3.OperationalError:
            return ""  # the table came with a later revision
    if previous_url:
        raise InvalidSetting(
            "REELHAUL_STORAGE_URL: the artifacts are being moved: let `reelhaul storage migrate` end first"
        )
    return str(url)


def _exists(blob: StoredFile) -> bool:
    return blob.path.is_file() and blob.path.stat().st_size == blob.size
