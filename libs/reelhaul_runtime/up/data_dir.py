"""Data folder of a suite: its lock and its token."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reelhaul_runtime.private_files import describe_data_dir, make_data_dir_private
from reelhaul_runtime.settings import InvalidSetting


class StartupConflict(Exception):
    """The suite cannot start now; the text states the cause and the remedy."""


def create_run_folder(data_dir: Path) -> Path:
    """Return the folder of what belongs to one run of the suite, created if missing; both get mode 0700.

    Raises InvalidSetting if the data folder is accessible to other users, or cannot be used.
    """
    folder = data_dir / "run"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_data_dir_private(data_dir)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise InvalidSetting(f"REELHAUL_DATA_DIR: {describe_data_dir(error)}") from error
    return folder


@contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Hold *folder* for this supervisor alone, by the descriptor that is yielded.

    Raises InvalidSetting if another one holds it.
    """
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try_lock(handle, seconds=0.2):
            pid = os.pread(handle, 32, 0).decode().strip() or "?"
            raise InvalidSetting(
                f"REELHAUL_DATA_DIR: a suite already runs on {folder.parent} (pid {pid}):"
                " stop it, or set another folder"
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield handle
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Return whether a supervisor holds *folder*."""
    try:
        handle = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(handle, seconds=0)
    finally:
        os.close(handle)


def _try_lock(handle: int, seconds: float) -> bool:
    # Retried, because `up --status` takes the lock for a moment to see whether it is free.
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def wait_for_exit(pids: Iterable[int], seconds: float) -> None:
    """Wait until *pids*, processes that a killed supervisor has left, have drained.

    Raises StartupConflict if one still runs after *seconds*.
    """
    deadline, running = time.monotonic() + seconds, sorted(pids)
    while running := [pid for pid in running if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() >= deadline:
            raise StartupConflict(f"processes of the last suite here still run: {running}; end them first")
        time.sleep(0.05)


def load_suite_token(folder: Path) -> str:
    """Return the suite's credential, created on first use; only its owner can read the file."""
    path = folder / "suite-token"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        if token := path.read_text().strip():
            return token
        path.unlink()  # the disk was full, or the machine stopped, when it was written
        return load_suite_token(folder)
    with os.fdopen(handle, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(token + "\n")
    return token
