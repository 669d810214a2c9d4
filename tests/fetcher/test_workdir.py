"""Work directories: private, and deleted with their lease; the job's next lease has what they received."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reelhaul_fetcher.disk.workdir import MAX_KEPT_SECONDS, WorkDirs

_MEDIA = b"media" * 20_000


def _open(root: Path, kept_bytes: int = 1 << 30) -> WorkDirs:
    return WorkDirs(root, kept_bytes=kept_bytes)


def _receive(workdirs: WorkDirs, job: str, epoch: int = 1, tenant: str = "acme") -> Path:
    """Receive some media under a lease; return its directory."""
    directory = workdirs.create(job, epoch, tenant)
    (directory / "received").mkdir()
    (directory / "received" / "stream.mp4").write_bytes(_MEDIA)
    (directory / "result.mp4").write_bytes(b"x")
    return directory


def _set_owner(directory: Path, identity: str) -> None:
    """Make another process the owner of *directory*."""
    owner = directory / ".worker"
    owner.write_text("\n".join([identity, *owner.read_text().splitlines()[1:]]))


@pytest.fixture
def dead_owner() -> str:
    """The identity of a process that has ended."""
    with subprocess.Popen(["true"]) as ended:
        pass
    return f"{ended.pid} 1"


def _left(root: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in root.iterdir())


def test_create_and_remove(tmp_path: Path) -> None:
    """A lease's directory is readable by its owner only, and removed with its contents."""
    workdirs = WorkDirs(tmp_path / "work")
    directory = workdirs.create("jobs/one", 3)
    assert (directory.name, stat.S_IMODE(os.stat(directory).st_mode)) == ("one-3", 0o700)
    (directory / "part").write_bytes(b"x")
    asyncio.run(workdirs.remove(directory))
    assert not directory.exists()


def test_sweep(tmp_path: Path, dead_owner: str) -> None:
    """Directories of dead fetchers are deleted, also if another process has their pid now."""
    workdirs = WorkDirs(tmp_path)
    ours = workdirs.create("jobs/ours", 1)
    _set_owner(workdirs.create("jobs/dead", 1), dead_owner)
    _set_owner(workdirs.create("jobs/reused", 1), f"{os.getpid()} 1")
    assert asyncio.run(workdirs.sweep()) == 2
    assert [ours] == list(tmp_path.iterdir())


def test_directory_in_creation_is_not_swept(tmp_path: Path) -> None:
    """A directory that another fetcher creates at this moment has no owner yet, and stays."""
    new, old = tmp_path / "new-1", tmp_path / "old-1"
    for directory in (new, old):
        directory.mkdir()
    os.utime(old, (0, 0))
    assert asyncio.run(WorkDirs(tmp_path).sweep()) == 1
    assert list(tmp_path.iterdir()) == [new]


@pytest.mark.parametrize("end", ["kept", "swept", "found dead"])
def test_next_lease_takes_over(tmp_path: Path, dead_owner: str, end: str) -> None:
    """The next lease has what the earlier one received, whether that ended in order or its fetcher died."""
    workdirs = _open(tmp_path)
    first = _receive(workdirs, "jobs/one")
    if end == "kept":
        asyncio.run(workdirs.keep(first))
    else:
        _set_owner(first, dead_owner)
    if end == "swept":
        asyncio.run(_open(tmp_path).sweep())
    second = _open(tmp_path).create("jobs/one", 2, "acme")
    assert (second / "received" / "stream.mp4").read_bytes() == _MEDIA
    assert not (second / "result.mp4").exists()
    assert list(tmp_path.iterdir()) == [second]


@pytest.mark.parametrize(
    ("job", "tenant"), [("jobs/two", "acme"), ("jobs/one", "other"), ("jobs/one", None), ("jobs/on", "acme")]
)
def test_others_take_nothing_over(tmp_path: Path, job: str, tenant: str | None) -> None:
    """Neither another job nor another tenant gets what a job received."""
    workdirs = _open(tmp_path)
    asyncio.run(workdirs.keep(_receive(workdirs, "jobs/one")))
    assert not (workdirs.create(job, 2, tenant) / "received").exists()


def test_running_lease_keeps_its_directory(tmp_path: Path) -> None:
    """While an earlier lease still runs here, the next one starts with nothing, and takes nothing away."""
    workdirs = _open(tmp_path)
    first = _receive(workdirs, "jobs/one")
    second = workdirs.create("jobs/one", 2, "acme")
    assert not (second / "received").exists()
    assert (first / "received" / "stream.mp4").exists()


@pytest.mark.parametrize(
    "case", ["no tenant", "nothing received", "empty files", "a link", "none allowed", "too big"]
)
def test_not_kept(tmp_path: Path, case: str) -> None:
    """Nothing is kept that no lease may or can use."""
    root = tmp_path / "work"
    workdirs = _open(root, {"none allowed": 0, "too big": 50_000}.get(case, 1 << 30))
    directory = _receive(workdirs, "jobs/one")
    received = directory / "received"
    if case == "no tenant":
        _set_owner(directory, (directory / ".worker").read_text().splitlines()[0])
        (directory / ".worker").write_text((directory / ".worker").read_text().splitlines()[0])
    elif case == "nothing received":
        (received / "stream.mp4").unlink()
        received.rmdir()
    elif case == "empty files":
        (received / "stream.mp4").write_bytes(b"")
    elif case == "a link":
        received.rename(tmp_path / "elsewhere")
        received.symlink_to(tmp_path / "elsewhere")
    asyncio.run(workdirs.keep(directory))
    assert list(root.iterdir()) == []


def test_kept_bytes_are_bounded(tmp_path: Path) -> None:
    """Beyond the limit the oldest is deleted, and anything after a day."""
    workdirs = _open(tmp_path, 250_000)
    for number, name in enumerate(("one", "two", "three")):
        asyncio.run(workdirs.keep(_receive(workdirs, f"jobs/{name}")))
        kept = next(tmp_path.glob(f"{name}.*"))
        os.utime(kept, (kept.stat().st_mtime - 100 + number,) * 2)
    assert _left(tmp_path) == ["three", "two"]
    aged = next(tmp_path.glob("two.*"))
    os.utime(aged, (aged.stat().st_mtime - MAX_KEPT_SECONDS,) * 2)
    assert asyncio.run(workdirs.sweep()) == 1
    assert _left(tmp_path) == ["three"]


def test_discard(tmp_path: Path) -> None:
    """What is kept of an ended job is deleted, and of no other."""
    workdirs = _open(tmp_path)
    for name in ("one", "on", "one-more"):
        asyncio.run(workdirs.keep(_receive(workdirs, f"jobs/{name}")))
    assert sorted(asyncio.run(workdirs.list_kept_jobs())) == ["jobs/on", "jobs/one", "jobs/one-more"]
    asyncio.run(workdirs.discard("jobs/one"))
    assert _left(tmp_path) == ["on", "one-more"]


def test_kept_bytes_make_space(tmp_path: Path) -> None:
    """What is kept counts as used, and goes first when space is needed, the oldest and no more."""
    workdirs = WorkDirs(tmp_path, 1_000_000, disk_free=lambda _: 1 << 40, kept_bytes=1 << 30)
    for age, name in enumerate(("one", "two", "three")):
        asyncio.run(workdirs.keep(_receive(workdirs, f"jobs/{name}")))
        os.utime(next(tmp_path.glob(f"{name}.*")), (1_900_000_000 + age,) * 2)
    assert workdirs.free_bytes() <= 700_000
    asyncio.run(workdirs.make_space(750_000))
    assert _left(tmp_path) == ["three", "two"]
    assert 750_000 <= workdirs.free_bytes() < 850_000


def test_linked_file_counts_once(tmp_path: Path) -> None:
    """A stream that is also a product takes its space once."""
    workdirs = _open(tmp_path)
    directory = _receive(workdirs, "jobs/one")
    before = workdirs.used_bytes("jobs/one", 1)
    os.link(directory / "received" / "stream.mp4", directory / "stream0.mp4")
    assert workdirs.used_bytes("jobs/one", 1) == before


def test_deletion_during_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that begins while what is kept for it is being deleted has all of it, or nothing."""
    workdirs = _open(tmp_path)
    asyncio.run(workdirs.keep(_receive(workdirs, "jobs/one")))
    delete, taken = shutil.rmtree, list[Path]()

    def delete_slowly(path: Path, **options: Any) -> None:
        if not taken and path.parent == tmp_path:
            taken.append(tmp_path)
            taken[0] = workdirs.create("jobs/one", 2, "acme") / "received"
        delete(path, **options)

    monkeypatch.setattr(shutil, "rmtree", delete_slowly)
    asyncio.run(workdirs.discard("jobs/one"))
    assert taken[0].parent.exists()
    assert not taken[0].exists()
    assert _left(tmp_path) == ["one-2"]
