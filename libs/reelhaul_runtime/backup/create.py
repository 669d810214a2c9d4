"""Create a backup of a suite while it runs."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from reelhaul_runtime.backup.archive import (
    BUFFER,
    DATABASE,
    END,
    FORMAT,
    MANIFEST,
    BackupError,
    HashingReader,
    Manifest,
    Progress,
    StoredTotal,
    Summary,
    digest_of,
    forget_members,
    member,
    read_services,
)
from reelhaul_runtime.private_files import open_private
from reelhaul_runtime.service import ServiceData, StoredFile
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.sql import engines

_BUSY_SECONDS = 30


def create(data_dir: Path, target: Path, *, with_artifacts: bool, progress: Progress) -> Summary:
    """Back up the suite on *data_dir* into the tar file *target*, which must not exist.

    Databases are saved before those that they refer to, and no stored file is deleted meanwhile: whatever a
    job refers to is in the backup. Raises BackupError; then *target* does not exist.
    """
    services = read_services(data_dir)
    _check(services, with_artifacts)
    if target.exists():
        raise BackupError(f"{target} exists already: name a new file")
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix=".backup-", dir=target.parent)))
            if with_artifacts:
                _keep_stored_files(stack, services)
            revisions = _save_small_files(services, folder)
            backup = _Backup(services if with_artifacts else {}, folder, revisions, progress)
            partial = folder / "partial.tar"
            with open(partial, "wb", opener=open_private) as file:
                backup.write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            _sync_folder(target.parent)
    except OSError as error:
        raise BackupError(f"the backup cannot be written to {target.parent}: {error.strerror}") from error
    return backup.summary


class _Backup:
    """Writes the archive of the small files in *folder* and of the stored files of *services*."""

    def __init__(
        self,
        services: Mapping[str, ServiceData],
        folder: Path,
        revisions: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self._folder, self._progress = folder, progress
        self._stored = {
            f"{name}/{kind}": (stored, folder / name / DATABASE)
            for name, data in services.items()
            for kind, stored in data.stored.items()
        }
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = Manifest(
            format=FORMAT,
            version=version("reelhaul"),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            revisions=revisions,
            files={str(path.relative_to(folder)): digest_of(path) for path in paths},
            stored={prefix: self._total(prefix) for prefix in self._stored},
        )
        small = sum(digest.size for digest in manifest.files.values())
        self._all_bytes = small + sum(total.bytes for total in manifest.stored.values())
        self._damaged: list[str] = []
        self.summary = Summary(manifest)

    def write(self, file: io.BufferedWriter) -> None:
        manifest = self.summary.manifest
        with tarfile.open(fileobj=file, mode="w|", bufsize=BUFFER) as tar:
            self._add_content(tar, MANIFEST, manifest.to_json())
            # Databases first: what the archive has after them is checked with them.
            for name in sorted(manifest.files, key=lambda name: not name.endswith(f"/{DATABASE}")):
                with (self._folder / name).open("rb") as source:
                    reader = HashingReader(source, manifest.files[name].size, self._on_read)
                    tar.addfile(member(name, manifest.files[name].size), reader)
            for prefix in self._stored:
                for stored in self._list(prefix):
                    self._add_stored(tar, prefix, stored)
            self._add_content(tar, END, json.dumps({"damaged": self._damaged}).encode())

    def _add_stored(self, tar: tarfile.TarFile, prefix: str, stored: StoredFile) -> None:
        """Add a stored file; one that is damaged is recorded as such, so that it is not restored."""
        name = f"{prefix}/{stored.key}"
        try:
            source = stored.path.open("rb")
        except OSError:
            self._note_damage(name)
            return
        with source:
            reader = HashingReader(source, stored.size, self._on_read)
            tar.addfile(member(name, stored.size), reader)
        forget_members(tar)
        self.summary.stored_files += 1
        if reader.sha256 != stored.sha256:
            self._note_damage(name)

    def _note_damage(self, name: str) -> None:
        self._damaged.append(name)
        self.summary.damaged += 1

    def _add_content(self, tar: tarfile.TarFile, name: str, content: bytes) -> None:
        tar.addfile(member(name, len(content)), io.BytesIO(content))

    def _on_read(self, size: int) -> None:
        self.summary.bytes += size
        self._progress(self.summary.bytes, self._all_bytes)

    def _list(self, prefix: str) -> Iterator[StoredFile]:
        stored, database = self._stored[prefix]
        with closing(sqlite3.connect(database)) as connection:
            yield from stored.list_all(connection)

    def _total(self, prefix: str) -> StoredTotal:
        files = total = 0
        for stored in self._list(prefix):
            files, total = files + 1, total + stored.size
        return StoredTotal(files, total)


def _check(services: Mapping[str, ServiceData], with_artifacts: bool) -> None:
    """Raise InvalidSetting or BackupError if a backup cannot contain what *services* keep."""
    for data in services.values():
        if data.database_url and not engines.is_sqlite(data.database_url):
            raise InvalidSetting(
                f"{data.database_setting} is not SQLite: back that database up with pg_dump, and artifacts as"
                " docs/backup.md says"
            )
        if with_artifacts and data.stored_elsewhere:
            raise InvalidSetting(
                f"{data.stored_elsewhere} is not a folder: use --without-artifacts, and the versioning of the"
                " bucket for the artifacts (docs/backup.md)"
            )
        if data.database_url and not (path := engines.sqlite_path(data.database_url)).exists():
            raise BackupError(f"there is no database {path}: is REELHAUL_DATA_DIR the folder of the suite?")


def _keep_stored_files(stack: ExitStack, services: Mapping[str, ServiceData]) -> None:
    for data in services.values():
        for stored in data.stored.values():
            try:
                stack.enter_context(stored.keep())
            except BlockingIOError:
                raise BackupError("another backup of this suite runs: wait until it has ended") from None
            except OSError as error:
                raise BackupError(
                    f"the artifacts cannot be read ({error.filename}: {error.strerror}): is their disk"
                    " mounted? --without-artifacts backs up the databases alone"
                ) from error


def _save_small_files(services: Mapping[str, ServiceData], folder: Path) -> dict[str, str]:
    """Copy databases and private files to *folder*, in the order of *services*; return the revisions."""
    revisions = {}
    for name, data in services.items():
        (folder / name).mkdir(mode=0o700)
        if data.database_url:
            path = engines.sqlite_path(data.database_url)
            revisions[name] = _save_database(path, folder / name / DATABASE)
        # After the database, which may have what one of these keys has sealed.
        for kind, path in data.private.items():
            _copy_private(path, folder / name / kind)
    return revisions


def _save_database(source: Path, target: Path) -> str:
    """Save a snapshot of a SQLite file that may be in use; return its schema revision."""
    with (
        _connection(source) as connection,
        closing(sqlite3.connect(target)) as snapshot,
    ):
        # All pages in one step: a read transaction, which delays no writer.
        connection.backup(snapshot, pages=-1)
        revision: str = snapshot.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    return revision


@contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)
        ) as database:
            yield database
    except sqlite3.Error as error:
        raise BackupError(f"the database {path} cannot be read: {error}") from error


def _copy_private(source: Path, target: Path) -> None:
    """Copy a file, or those of a folder, which may be replaced meanwhile. Missing ones are not an error."""
    if source.is_dir():
        target.mkdir(mode=0o700)
        for path in source.iterdir():
            if path.is_file() and not path.name.startswith("."):
                _copy_private(path, target / path.name)
        return
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        return
    with open(target, "wb", opener=open_private) as file:
        file.write(content)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def choose_target(path: Path) -> Path:
    """Return *path*, or a new file in it, with the time in its name, if it is a folder."""
    if not path.is_dir():
        return path.absolute()
    return path.absolute() / f"reelhaul-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"
