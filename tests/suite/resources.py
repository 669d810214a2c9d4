"""Processes, sockets and files of running downloads, observed from outside without asking a service."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from tests.sites.site import Site
from tests.suite.suite import Suite

from reelhaul_runtime.up import procfs


class DownloadResources:
    """What downloads from *site* use, beyond the processes that the idle suite has at construction."""

    def __init__(self, suite: Suite, site: Site) -> None:
        self._suite = suite
        self._port = urlsplit(site.origin).port
        self._fetcher = psutil.Process(suite.pid("fetcher"))
        self._idle_pids = {process.pid for process in self._descendants()}

    def processes(self) -> list[str]:
        """Return the names of the downloads' processes and of all zombies."""
        found = []
        for process in self._descendants():
            with suppress(psutil.NoSuchProcess):
                zombie = process.status() == psutil.STATUS_ZOMBIE
                if zombie or process.pid not in self._idle_pids:
                    found.append(f"{process.name()}{' (zombie)' if zombie else ''}")
        return found

    def sockets(self) -> list[str]:
        """Return the states of the connections to the site."""
        found = []
        for process in (self._fetcher, *self._descendants()):
            with suppress(psutil.NoSuchProcess):
                connections = process.net_connections("tcp")
                found += [each.status for each in connections if each.raddr and each.raddr.port == self._port]
        return found

    def files(self) -> list[str]:
        """Return the paths in the fetcher's work folder and in storage's staging folder."""
        folders = [self._suite.data_dir / "work", self._suite.data_dir / "artifacts" / "staging"]
        return [str(path) for folder in folders if folder.exists() for path in folder.rglob("*")]

    def all(self) -> dict[str, list[str]]:
        """Return everything found, by its kind; empty if nothing is left."""
        found = {"processes": self.processes(), "sockets": self.sockets(), "files": self.files()}
        return {kind: resources for kind, resources in found.items() if resources}

    def _descendants(self) -> list[psutil.Process]:
        return self._fetcher.children(recursive=True)


@contextmanager
def stopped_ffmpeg(suite: Suite) -> Iterator[set[int]]:
    """Stop every ffmpeg that reports progress within the block, with SIGSTOP, soon after it starts.

    Yields the process ids. From outside, because the confinement of ffmpeg runs nothing else in its place. An
    encoding lasts long enough to be found; one that only copies may end before.
    """
    fetcher = suite.pid("fetcher")
    ended, stopped = threading.Event(), set[int]()

    def stop() -> None:
        while not ended.wait(0.002):
            for pid in procfs.descendants(fetcher):
                with suppress(ProcessLookupError, FileNotFoundError):
                    if pid not in stopped and b"-progress" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGSTOP)
                        stopped.add(pid)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield stopped
    finally:
        ended.set()
        thread.join()


@contextmanager
def stopped_storage(suite: Suite) -> Iterator[None]:
    """Stop the storage process with SIGSTOP until the block ends."""
    pid = suite.pid("storage")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
