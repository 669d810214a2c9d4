"""The ground a suite stands on: its folder, its lock, its token and its ports."""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class StartupConflict(Exception):
    """The suite cannot start here; the text tells why and what to do."""


def create_run_folder(data_dir: Path) -> Path:
    """Where a running suite keeps what belongs to the run alone; made with mode 0700."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = data_dir / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold *folder* for one supervisor. Raises GroundTaken where another holds it."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _lock_within(handle, seconds=0.2):
            pid = os.pread(handle, 32, 0).decode().strip() or "?"
            raise StartupConflict(
                f"a suite runs on {folder.parent} already (pid {pid}):"
                " stop it, or give this one another REELHAUL_DATA_DIR"
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether a supervisor runs on *folder*."""
    try:
        handle = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _lock_within(handle, seconds=0)
    finally:
        os.close(handle)


def _lock_within(handle: int, seconds: float) -> bool:
    # Not at once: `up --status` holds the lock for the moment in which it looks.
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        else:
            return True


def wait_for_exit(pids: Iterable[int], seconds: float) -> None:
    """Wait until *pids*, services of a supervisor that was killed, have drained.

    Raises GroundTaken where one still runs after *seconds*.
    """
    end, left = time.monotonic() + seconds, sorted(pids)
    while left := [pid for pid in left if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() >= end:
            raise StartupConflict(f"processes of the last suite here still run: {left}; end them first")
        time.sleep(0.05)


def load_suite_token(folder: Path) -> str:
    """The suite's credential, made on first use; readable by its owner only."""
    path = folder / "suite-token"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        if kept := path.read_text().strip():
            return kept
        path.unlink()  # the disk was full, or the machine stopped, as it was written
        return load_suite_token(folder)
    with os.fdopen(handle, "w") as file:
        made = secrets.token_urlsafe(32)
        file.write(made + "\n")
    return made


def resolve_port(address: str) -> str:
    """*address* (host:port), with port 0 replaced by a free one that stays ours over restarts."""
    host, _, port = address.rpartition(":")
    return address if port != "0" else f"{host}:{reserve_port()}"


def reserve_port() -> int:
    """A free loopback port that no outgoing connection is given.

    Below the kernel's range for those (from 32768): while a server restarts, a client
    that dials an ephemeral port can be given that very port as its own.
    """
    for port in random.sample(range(10_000, 32_000), 100):
        if is_address_free(f"127.0.0.1:{port}"):
            return port
    raise StartupConflict("no free port on 127.0.0.1 below 32000")


def is_address_free(address: str) -> bool:
    """Whether a server could listen at *address* (host:port) now. GroundTaken where it is no address."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise StartupConflict(f"{address} is no host:port of this machine: {error}") from error
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(target)
            probe.listen(1)
        except OSError:
            return False
    return True
