"""Backup and restore: what a suite had is there again in a new folder, and its jobs finish."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic import command
from click.testing import CliRunner
from cryptography.fernet import Fernet
from tests.sites.site import Site
from tests.suite.downloads import create_download, download, wait_for_end, wait_until_downloading
from tests.suite.suite import Suite, running_suite

from reelhaul_runtime.backup.archive import BackupError, Summary
from reelhaul_runtime.backup.create import choose_target, create
from reelhaul_runtime.backup.restore import restore
from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.sql import engines, migrations
from reelhaul_storage.commands import storage
from reelhaul_storage.disk.files import pause_deletion

# Bytes per second: the download is interrupted before its end.
_RATE = 1_500_000
_KEY = Fernet.generate_key()
_DAMAGED = "the backup is damaged"


@dataclass
class Backup:
    """A backup of a suite that ran, with what it contains."""

    file: Path
    done: dict[str, str]
    unfinished: list[str]
    digest: str


def _run(data_dir: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``backup`` or ``restore`` with *settings* on *data_dir*."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REELHAUL_")}
    environment |= {f"REELHAUL_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "reelhaul_runtime", *arguments],
        env=environment | {"REELHAUL_DATA_DIR": str(data_dir)},
        cwd=data_dir.parent,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def _create(data_dir: Path, target: Path, *, with_artifacts: bool = True) -> Summary:
    return create(data_dir, target, with_artifacts=with_artifacts, progress=lambda done, total: None)


def _restore(file: Path, data_dir: Path) -> Summary:
    return restore(file, data_dir, progress=lambda done, total: None)


@pytest.fixture(scope="module")
def backup(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backup]:
    """A backup that was made while one download was done, one ran and one waited."""
    folder = tmp_path_factory.mktemp("backup")
    data_dir, file = folder / "data", folder / "suite.tar"
    (data_dir / "cookies").mkdir(parents=True)
    (data_dir / "cookies" / "site.cookies").write_bytes(b"sealed")
    (data_dir / "storage-seal.key").write_bytes(_KEY)
    (data_dir / "jobs-seal.key").write_bytes(_KEY)
    with running_suite(data_dir, fetcher_slots="1") as suite:
        url = site.url("/watch/demo")
        file_url = download(suite, url, quality="1080p", format="mp4")["files"][0]["url"]
        done = suite.http.get(file_url)
        running = create_download(suite, f"{url}?media.rate={_RATE}", quality="1080p", format="mp4")
        wait_until_downloading(suite, running, 100_000)
        # Stopped, the fetcher cannot finish it before the backup is complete.
        os.kill(suite.pid("fetcher"), signal.SIGSTOP)
        waiting = create_download(suite, f"{url}?media.token=waiting", quality="1080p", format="mp4")
        result = _run(data_dir, "backup", str(file))
        assert result.returncode == 0, result.stderr
        assert suite.http.get(f"/api/v1/status/{running}").json()["status"] == "RUNNING"
        os.kill(suite.pid("fetcher"), signal.SIGCONT)
    digest = site.digest("/media/1080.mp4")
    assert hashlib.sha256(done.content).hexdigest() == digest
    yield Backup(file, {file_url: digest}, [running, waiting], digest)
    shutil.rmtree(folder)


def _digest(suite: Suite, url: str) -> str:
    return hashlib.sha256(suite.http.get(url).raise_for_status().content).hexdigest()


def test_a_restored_suite_finishes_the_jobs(backup: Backup, tmp_path: Path):
    """In a new folder, finished files read as before, and running and waiting jobs finish."""
    data_dir = tmp_path / "data"
    result = _run(data_dir, "restore", str(backup.file))
    assert result.returncode == 0, result.stderr
    assert (data_dir / "cookies" / "site.cookies").read_bytes() == b"sealed"
    assert (data_dir / "storage-seal.key").read_bytes() == _KEY
    assert (data_dir / "jobs-seal.key").read_bytes() == _KEY
    for name in ("jobs.db", "storage.db", "storage-seal.key", "jobs-seal.key", "cookies/site.cookies"):
        assert stat.S_IMODE((data_dir / name).stat().st_mode) == 0o600
    with running_suite(data_dir) as suite:
        for url, digest in backup.done.items():
            assert _digest(suite, url) == digest
        for job in backup.unfinished:
            end = wait_for_end(suite, job)
            assert "completed" in end, end
            assert _digest(suite, end["completed"]["files"][0]["url"]) == backup.digest


def test_the_backup_is_private(backup: Backup):
    """The file, which contains secrets, is for its owner only, and nothing else is left beside it."""
    assert stat.S_IMODE(backup.file.stat().st_mode) == 0o600
    assert [path.name for path in backup.file.parent.iterdir() if path.name.startswith(".backup")] == []


def _rewrite(backup: Backup, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Write the members of *backup* as *change* returns them to *target*; None leaves one out."""
    with tarfile.open(backup.file) as source, tarfile.open(target, "w") as copy:
        for info in source:
            reader = source.extractfile(info)
            assert reader
            content = change(info.name, reader.read())
            if content is not None:
                info.size = len(content)
                copy.addfile(info, io.BytesIO(content))
    return target


def _change_manifest(**changes: object) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | changes).encode() if name == "manifest.json" else content

    return change


def _flip_byte(part: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        return bytes([content[0] ^ 1]) + content[1:] if part in name else content

    return change


def _leave_out(part: str) -> Callable[[str, bytes], bytes | None]:
    return lambda name, content: None if part in name else content


_BROKEN = {
    "artifact changed": (_flip_byte("/blobs/"), _DAMAGED),
    "database changed": (_flip_byte("jobs/database.db"), _DAMAGED),
    "cookies changed": (_flip_byte("/cookies/"), _DAMAGED),
    "manifest changed": (_flip_byte("manifest.json"), _DAMAGED),
    "artifact missing": (_leave_out("/blobs/"), _DAMAGED),
    "database missing": (_leave_out("jobs/database.db"), _DAMAGED),
    "end missing": (_leave_out("end.json"), "the backup is not complete"),
    "not a backup": (_leave_out("manifest.json"), "the file is not a backup of Reelhaul"),
    "newer schema": (
        _change_manifest(revisions={"jobs": "9999", "storage": "0001"}),
        "its database of jobs has revision 9999",
    ),
    "newer format": (_change_manifest(format=2), "which writes another format"),
    "outside of its folder": (
        _change_manifest(files={"fetcher/cookies/../../x": {"size": 1, "sha256": ""}}),
        "it names a file outside of its folder",
    ),
}


@pytest.mark.parametrize("case", _BROKEN)
def test_what_is_damaged_is_refused(backup: Backup, tmp_path: Path, case: str):
    """A damaged, incomplete or newer backup is refused with its reason, and leaves an empty folder."""
    change, message = _BROKEN[case]
    broken = _rewrite(backup, tmp_path / "broken.tar", change)
    with pytest.raises(BackupError, match=message):
        _restore(broken, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["run"]


def test_a_truncated_backup_is_refused(backup: Backup, tmp_path: Path):
    """A file that was cut off restores nothing; complete, it is restored into the same folder."""
    cut = tmp_path / "cut.tar"
    cut.write_bytes(backup.file.read_bytes()[:-200_000])
    with pytest.raises(BackupError, match=_DAMAGED):
        _restore(cut, tmp_path / "data")
    _restore(backup.file, tmp_path / "data")


def test_a_folder_in_use_is_refused(backup: Backup, tmp_path: Path):
    """Nothing is restored over other files, and no backup is written over another one."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "jobs.db").write_bytes(b"mine")
    with pytest.raises(BackupError, match=r"is not empty \(it contains jobs.db\)"):
        _restore(backup.file, tmp_path / "data")
    assert (tmp_path / "data" / "jobs.db").read_bytes() == b"mine"
    _restore(backup.file, tmp_path / "new")
    with pytest.raises(BackupError, match="exists already"):
        _create(tmp_path / "new", backup.file)


def _artifacts(data_dir: Path) -> int:
    with closing(sqlite3.connect(data_dir / "storage.db")) as database:
        count: int = database.execute("SELECT count(*) FROM artifacts").fetchone()[0]
    return count


def test_without_artifacts(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A backup without artifacts restores jobs, whose files have expired, unless the blobs are there."""
    _restore(backup.file, tmp_path / "data")
    (tmp_path / "backups").mkdir()
    file = choose_target(tmp_path / "backups")
    _create(tmp_path / "data", file, with_artifacts=False)
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [file.name]
    _restore(file, tmp_path / "empty")
    assert _artifacts(tmp_path / "empty") == 0
    monkeypatch.setenv("REELHAUL_STORAGE_URL", f"file://{tmp_path / 'data' / 'artifacts'}")
    _restore(file, tmp_path / "kept")
    assert _artifacts(tmp_path / "kept") == _artifacts(tmp_path / "data") == 1


def test_damage_before_the_backup(backup: Backup, tmp_path: Path):
    """A file that was damaged before is reported, left out at the restoration, and stops neither."""
    _restore(backup.file, tmp_path / "data")
    (blob,) = [path for path in (tmp_path / "data" / "artifacts" / "blobs").rglob("*") if path.is_file()]
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.write(b"damaged")
    result = _run(tmp_path / "data", "backup", str(tmp_path / "new.tar"))
    assert (result.returncode, "1 artifact files are damaged" in result.stderr) == (3, True)
    assert _restore(tmp_path / "new.tar", tmp_path / "restored").damaged == 1
    assert _artifacts(tmp_path / "restored") == 0


def test_nothing_is_deleted_during_a_backup(backup: Backup, tmp_path: Path):
    """While the blobs are read, a second backup is refused."""
    _restore(backup.file, tmp_path / "data")
    with (
        pause_deletion(tmp_path / "data" / "artifacts"),
        pytest.raises(BackupError, match="another backup of this suite runs"),
    ):
        _create(tmp_path / "data", tmp_path / "new.tar")
    _create(tmp_path / "data", tmp_path / "new.tar")


def test_artifacts_that_were_moved(backup: Backup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Artifacts are backed up from where they were moved to, and restored to where the settings say."""
    _restore(backup.file, tmp_path / "data")
    monkeypatch.setenv("REELHAUL_DATA_DIR", str(tmp_path / "data"))
    target = f"file://{tmp_path}/moved"
    result = CliRunner().invoke(storage, ["migrate", "--to", target, "--delete-source"])
    assert result.exit_code == 0, result.output
    _create(tmp_path / "data", tmp_path / "new.tar")
    _restore(tmp_path / "new.tar", tmp_path / "restored")
    assert _artifacts(tmp_path / "restored") == 1
    with closing(sqlite3.connect(tmp_path / "restored" / "storage.db")) as database, database:
        assert database.execute("SELECT url, previous_url FROM blob_location").fetchall() == [("", "")]
        database.execute("UPDATE blob_location SET url = 'file:///b', previous_url = 'file:///a'")
    with pytest.raises(InvalidSetting, match="the artifacts are being moved"):
        _create(tmp_path / "restored", tmp_path / "newest.tar")


def _copy_to_older_schema(database: Path, older: Path, revision: str) -> None:
    """Create the catalog *older* of *revision* with the artifacts and blobs of *database*."""
    engine = engines.create_write_engine(f"sqlite:///{older}")
    with engine.begin() as connection:
        command.upgrade(migrations.alembic_config("reelhaul_storage", connection), revision)
    engine.dispose()
    with closing(sqlite3.connect(older)) as connection, connection:
        connection.execute("ATTACH ? AS newer", (str(database),))
        for table in ("blobs", "artifacts"):
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")


def test_an_older_schema_is_migrated(backup: Backup, tmp_path: Path):
    """A backup that an earlier build created is restored with the schema of this one."""
    with tarfile.open(backup.file) as source:
        source.extract("storage/database.db", tmp_path, filter="data")
        reader = source.extractfile("manifest.json")
        assert reader
        manifest = json.load(reader)
    database = tmp_path / "storage" / "database.db"
    _copy_to_older_schema(database, tmp_path / "older.db", "0002")
    content = (tmp_path / "older.db").read_bytes()
    digest = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["storage/database.db"], manifest["revisions"]["storage"] = digest, "0002"

    def change(name: str, old: bytes) -> bytes:
        if name == "manifest.json":
            return json.dumps(manifest).encode()
        return content if name == "storage/database.db" else old

    _restore(_rewrite(backup, tmp_path / "old.tar", change), tmp_path / "data")
    assert _artifacts(tmp_path / "data") == 1
    with closing(sqlite3.connect(tmp_path / "data" / "storage.db")) as restored:
        revision = restored.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    assert revision == migrations.head("reelhaul_storage")


def test_an_empty_folder_cannot_be_backed_up(tmp_path: Path):
    """Without a database there is nothing to back up: the setting may be wrong."""
    with pytest.raises(BackupError, match=r"is REELHAUL_DATA_DIR the folder of the suite\?"):
        _create(tmp_path / "data", tmp_path / "x.tar")


def test_postgresql_is_not_backed_up(tmp_path: Path):
    """Other databases are refused with the setting and what to do, and without the password."""
    url = "postgresql://u:secret@127.0.0.1/x"
    result = _run(tmp_path / "data", "backup", str(tmp_path / "x.tar"), jobs_database_url=url)
    assert result.returncode == 2
    assert "REELHAUL_JOBS_DATABASE_URL is not SQLite: back that database up with pg_dump" in result.stderr
    assert "secret" not in result.stderr
    assert not (tmp_path / "x.tar").exists()
