"""Restore a backup into an empty data folder."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO

from reelhaul_runtime.backup.archive import (
    BUFFER,
    DATABASE,
    END,
    MANIFEST,
    BackupError,
    FileDigest,
    HashingReader,
    Manifest,
    Progress,
    Summary,
    check_name,
    forget_members,
    parse_json,
    read_json_member,
    read_services,
)
from reelhaul_runtime.private_files import open_private
from reelhaul_runtime.service import ServiceData
from reelhaul_runtime.sql import engines, migrations
from reelhaul_runtime.up import data_dir as data_dirs

# In the data folder until everything is verified; a restoration that was killed leaves it behind.
_STAGING = "restoring"
# What does not make a data folder a used one.
_IGNORED = {_STAGING, "run", "lost+found"}
_DAMAGED = "the backup is damaged"
_ANOTHER = "nothing was restored; use another backup"


def restore(source: Path, data_dir: Path, *, progress: Progress) -> Summary:
    """Restore *source* into *data_dir*, which must be empty or missing, and prepare it for a start.

    Everything is verified before it is moved to its place. Raises BackupError; then *data_dir* is empty.
    """
    try:
        with source.open("rb") as file:
            run_folder = data_dirs.create_run_folder(data_dir)
            with data_dirs.lock(run_folder), _staging(data_dir) as staging:
                return _restore(file, data_dir, staging, progress)
    except tarfile.TarError as error:
        raise BackupError(f"{_DAMAGED} or not complete: {error}; {_ANOTHER}") from error
    except OSError as error:
        raise BackupError(f"{error.filename or source}: {error.strerror}") from error


def _restore(file: IO[bytes], data_dir: Path, staging: Path, progress: Progress) -> Summary:
    with tarfile.open(fileobj=file, mode="r|", bufsize=BUFFER) as tar, ExitStack() as stack:
        first = tar.next()
        if first is None or first.name != MANIFEST:
            raise BackupError("the file is not a backup of Reelhaul")
        manifest = Manifest.from_json(read_json_member(tar, first))
        services = read_services(staging)
        _check(manifest, services)
        restoration = _Restoration(manifest, services, progress, stack)
        while (info := tar.next()) is not None and info.name != END:
            restoration.add(tar, info)
        if info is None:
            raise BackupError(f"the backup is not complete: its end is missing; {_ANOTHER}")
        restoration.finish(read_json_member(tar, info))
    for data in services.values():
        data.after_restore()
    # The databases last: without them a folder is not taken for a restored one.
    for path in sorted(staging.iterdir(), key=lambda path: path.suffix == ".db"):
        path.rename(data_dir / path.name)
    os.sync()
    return restoration.summary


class _Restoration:
    """Puts the members of a backup, in their order, to where *services* expect them, and verifies them."""

    def __init__(
        self,
        manifest: Manifest,
        services: Mapping[str, ServiceData],
        progress: Progress,
        stack: ExitStack,
    ) -> None:
        self._manifest, self._services, self._progress, self._stack = manifest, services, progress, stack
        self._all_bytes = sum(digest.size for digest in manifest.files.values())
        self._all_bytes += sum(total.bytes for total in manifest.stored.values())
        self._restored: set[str] = set()
        self._databases: dict[str, sqlite3.Connection] = {}
        # Stored files that differ from their digest.
        self._damaged: set[str] = set()
        self.summary = Summary(manifest)

    def add(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        """Restore one member."""
        content = tar.extractfile(info) if info.isreg() else None
        if content is None:
            raise BackupError(f"{_DAMAGED}: {info.name} is not a file; {_ANOTHER}")
        if (digest := self._manifest.files.get(info.name)) is not None:
            self._add_file(info, digest, content)
        else:
            self._add_stored(info, content)
        forget_members(tar)

    def finish(self, end: bytes) -> None:
        """Raise BackupError if anything is missing or damaged that was not when the backup was created."""
        damaged = parse_json(end).get("damaged")
        if not isinstance(damaged, list):
            raise BackupError(f"{_DAMAGED}: its last member has no list of damaged files; {_ANOTHER}")
        if missing := sorted(self._manifest.files.keys() - self._restored):
            raise BackupError(f"{_DAMAGED}: {missing[0]} is missing; {_ANOTHER}")
        if worse := sorted(self._damaged.difference(damaged)):
            raise BackupError(f"{_DAMAGED}: {worse[0]} does not match its digest; {_ANOTHER}")
        expected = sum(total.files for total in self._manifest.stored.values())
        missing_files = len(set(damaged) - self._damaged)
        if self.summary.stored_files + len(self._damaged) + missing_files != expected:
            raise BackupError(f"{_DAMAGED}: stored files are missing; {_ANOTHER}")
        self.summary.damaged = len(damaged)

    def _add_file(self, info: tarfile.TarInfo, digest: FileDigest, content: IO[bytes]) -> None:
        path = self._path(info.name)
        if path.exists():
            raise BackupError(f"{path} exists already: move it away, or set another path")
        if info.size != digest.size or self._write(path, info, content, 0o600) != digest.sha256:
            raise BackupError(f"{_DAMAGED}: {info.name} does not match its digest; {_ANOTHER}")
        self._restored.add(info.name)
        name = info.name.removesuffix(f"/{DATABASE}")
        if name in self._manifest.revisions:
            data = self._services[name]
            migrations.migrate_if_behind(data.database_url, data.package, data.database_setting)
            self._databases[name] = self._stack.enter_context(closing(sqlite3.connect(path)))

    def _add_stored(self, info: tarfile.TarInfo, content: IO[bytes]) -> None:
        name, kind, key = (*info.name.split("/", 2), "", "")[:3]
        if name not in self._databases or kind not in self._services[name].stored:
            raise BackupError(f"{_DAMAGED}: {info.name} is not in its manifest; {_ANOTHER}")
        stored = self._services[name].stored[kind].find(self._databases[name], check_name(key))
        if stored is None:
            raise BackupError(f"{_DAMAGED}: its database does not name {info.name}; {_ANOTHER}")
        temporary = stored.path.with_name(f".{stored.path.name}.restoring")
        intact = self._write(temporary, info, content, 0o440) == stored.sha256 and info.size == stored.size
        if intact:
            temporary.replace(stored.path)
            self.summary.stored_files += 1
        else:
            temporary.unlink()
            self._damaged.add(info.name)

    def _path(self, name: str) -> Path:
        """Return where a database or private file belongs."""
        service, _, rest = name.partition("/")
        kind, _, file = rest.partition("/")
        data = self._services.get(service)
        if data is not None and rest == DATABASE:
            return engines.sqlite_path(data.database_url)
        if data is None or kind not in data.private:
            raise BackupError(
                f"this build does not know {name} of the backup: restore it with Reelhaul"
                f" {self._manifest.version}, which created it"
            )
        return data.private[kind] / file if file else data.private[kind]

    def _write(self, path: Path, info: tarfile.TarInfo, content: IO[bytes], mode: int) -> str:
        """Write a member to *path*; return the SHA-256 of its content."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        reader = HashingReader(content, info.size, self._on_read)
        with open(path, "wb", opener=open_private) as target:
            shutil.copyfileobj(reader, target, BUFFER)
            os.fchmod(target.fileno(), mode)
        return reader.sha256

    def _on_read(self, size: int) -> None:
        self.summary.bytes += size
        self._progress(self.summary.bytes, self._all_bytes)


def _check(manifest: Manifest, services: Mapping[str, ServiceData]) -> None:
    """Raise BackupError if this build or its settings cannot take the backup."""
    for name, revision in manifest.revisions.items():
        data = services.get(name)
        if data is None:
            raise BackupError(f"the backup has data of {name}, which is not installed here")
        if revision > (newest := migrations.head(data.package)):
            raise BackupError(
                f"the backup is of Reelhaul {manifest.version}: its database of {name} has revision"
                f" {revision}, and this build knows none after {newest}; install that version or a newer one"
            )
        if not engines.is_sqlite(data.database_url):
            raise BackupError(
                f"{data.database_setting} is not SQLite: a backup is restored to SQLite only; unset it"
            )
        if (path := engines.sqlite_path(data.database_url)).exists():
            raise BackupError(f"{data.database_setting}: {path} exists already: set another file")


@contextmanager
def _staging(data_dir: Path) -> Iterator[Path]:
    """Create the folder in which everything is verified; delete it at the end of the block."""
    if names := sorted(set(os.listdir(data_dir)) - _IGNORED):
        raise BackupError(
            f"{data_dir} is not empty (it contains {names[0]}): set REELHAUL_DATA_DIR to a new folder"
        )
    staging = data_dir / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
