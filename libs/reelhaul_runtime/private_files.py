"""Private files: folders with mode 0700 and files with mode 0600, whatever the umask and what existed."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

#: For processes that write files of the suite: what they create is for its owner only.
UMASK = 0o077

#: Folder in a data folder of what belongs to one machine, and the file in it with its command line's key.
RUN_FOLDER, KEY_FILE = "run", "api-key"

# What services and ``reelhaul up`` create in a data folder.
_CONTENTS = ("run", "work", "tools", "nats", "artifacts", "cookies", "jobs.db", "storage.db")


def make_data_dir_private(folder: Path) -> None:
    """Take the permissions of group and others from the data folder *folder*.

    Raises PermissionError if it belongs to another user, or holds other files but none of a data folder:
    such a folder, for example the home folder of a user, is in use by somebody else too.
    """
    status = folder.stat()
    if not status.st_mode & 0o077:
        return
    names = {path.name for path in folder.iterdir()}
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    if not is_ours or (names and names.isdisjoint(_CONTENTS)):
        raise PermissionError(
            f"the data folder {folder} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}):"
            " set its mode to 0700, or set REELHAUL_DATA_DIR to a folder of its own"
        )
    folder.chmod(0o700)


def describe_data_dir(error: OSError) -> str:
    """Return a text for the operator about *error*, raised by the use of a data folder."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """Open *path* with *flags* and mode 0600, also if it exists with another mode: an opener of ``open``."""
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, 0o600)
    return handle


def make_database_private(path: Path) -> None:
    """Create the SQLite file *path* if it is missing, and give it and its log files mode 0600.

    SQLite creates log files with the mode of the database. An existing one is not opened: to close it again
    would release the locks of this process's other connections.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.is_file() and file.stat().st_mode & 0o077:
            file.chmod(0o600)
