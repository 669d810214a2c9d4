"""Work directories: private, and deleted when their fetcher is dead."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from pathlib import Path

from reelhaul_fetcher.disk.workdir import WorkDirs


def test_create_and_remove(tmp_path: Path) -> None:
    """A lease's directory is readable by its owner only, and removed with its contents."""
    workdirs = WorkDirs(tmp_path / "work")
    directory = workdirs.create("jobs/one", 3)
    assert (directory.name, stat.S_IMODE(os.stat(directory).st_mode)) == ("one-3", 0o700)
    (directory / "part").write_bytes(b"x")
    asyncio.run(workdirs.remove(directory))
    assert not directory.exists()


def test_sweep(tmp_path: Path) -> None:
    """Directories of dead fetchers are deleted, also if another process has their pid now."""
    workdirs = WorkDirs(tmp_path)
    ours = workdirs.create("jobs/ours", 1)
    dead = workdirs.create("jobs/dead", 1)
    with subprocess.Popen(["true"]) as ended:
        pass
    (dead / ".worker").write_text(f"{ended.pid} 1")
    reused = workdirs.create("jobs/reused", 1)
    (reused / ".worker").write_text(f"{os.getpid()} 1")
    assert asyncio.run(workdirs.sweep()) == 2
    assert [ours] == list(tmp_path.iterdir())
