"""Work folders: private, and swept when their fetcher is dead."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from pathlib import Path

from reelhaul_fetcher.disk.workdir import WorkDirs


def test_a_folder_is_private_and_goes(tmp_path: Path) -> None:
    """A lease's folder is readable by us only, and removed whole."""
    scratch = WorkDirs(tmp_path / "work")
    folder = scratch.create("jobs/one", 3)
    assert (folder.name, stat.S_IMODE(os.stat(folder).st_mode)) == ("one-3", 0o700)
    (folder / "part").write_bytes(b"x")
    asyncio.run(scratch.remove(folder))
    assert not folder.exists()


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    """Folders of dead fetchers are swept, also where their number lives on as another process."""
    scratch = WorkDirs(tmp_path)
    ours = scratch.create("jobs/ours", 1)
    dead = scratch.create("jobs/dead", 1)
    with subprocess.Popen(["true"]) as gone:
        pass
    (dead / ".worker").write_text(f"{gone.pid} 1")
    reused = scratch.create("jobs/reused", 1)
    (reused / ".worker").write_text(f"{os.getpid()} 1")
    assert asyncio.run(scratch.sweep()) == 2
    assert [ours] == list(tmp_path.iterdir())
