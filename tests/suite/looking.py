"""Looking at what a download leaves in the world: processes, sockets, files. No service is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from tests.sites.site import Site
from tests.suite.suite import Suite


class Traces:
    """What there is of attempts, beyond the processes that a suite has while nothing runs."""

    def __init__(self, suite: Suite, site: Site) -> None:
        self._suite = suite
        self._port = urlsplit(site.origin).port
        self._fetcher = psutil.Process(suite.pid("fetcher"))
        self._usual = {process.pid for process in self._family()}

    def processes(self) -> list[str]:
        """Names of the processes of attempts; one that nobody has buried is told as such."""
        found = []
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                dead = process.status() == psutil.STATUS_ZOMBIE
                if dead or process.pid not in self._usual:
                    found.append(f"{process.name()}{' (zombie)' if dead else ''}")
        return found

    def sockets(self) -> list[str]:
        """Connections to the site, by their states."""
        found = []
        for process in (self._fetcher, *self._family()):
            with suppress(psutil.NoSuchProcess):
                sockets = process.net_connections("tcp")
                found += [end.status for end in sockets if end.raddr and end.raddr.port == self._port]
        return found

    def files(self) -> list[str]:
        """Files and folders of attempts: at work, and staged in storage."""
        places = [self._suite.data_dir / "work", self._suite.data_dir / "artifacts" / "staging"]
        return [str(path) for place in places if place.exists() for path in place.rglob("*")]

    def all(self) -> dict[str, list[str]]:
        """Everything that was found, by its kind; empty where there is nothing."""
        found = {"processes": self.processes(), "sockets": self.sockets(), "files": self.files()}
        return {kind: traces for kind, traces in found.items() if traces}

    def _family(self) -> list[psutil.Process]:
        return self._fetcher.children(recursive=True)


@contextmanager
def hanging_ffmpeg(suite: Suite) -> Iterator[None]:
    """Within the block, each ffmpeg that makes a file is stopped (SIGSTOP) before its first step."""
    link: Path = suite.data_dir / "tools" / "ffmpeg"
    real = link.resolve()
    fake, fresh = link.with_name("stopped"), link.with_name("fresh")
    # yt-dlp asks it for its version, long before there is anything to make.
    stop = 'case " $* " in *" -progress "*) kill -STOP $$;; esac'
    fake.write_text(f'#!/bin/sh\n{stop}\nexec {real} "$@"\n')
    fake.chmod(0o755)
    try:
        fresh.symlink_to(fake)
        fresh.rename(link)
        yield
    finally:
        fresh.symlink_to(real)
        fresh.rename(link)
