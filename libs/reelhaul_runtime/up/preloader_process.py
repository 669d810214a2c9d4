"""The preloader as the supervisor sees it: starts its process, and services by forks of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from reelhaul_runtime.child_process import environment_without_settings, module_command
from reelhaul_runtime.rpc.experiments import set_experiments
from reelhaul_runtime.up.process import Process

log = logging.getLogger(__name__)

_MAX_MESSAGE_BYTES = 4096


class PreloaderGone(Exception):
    """The preloader has ended: the service must be executed."""


class Preloader:
    """The process of the preloader, of which each service is a fork once. Created by ``open_preloader``."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        """*pid*: a child of this process."""
        self.pid, self._control = pid, control
        self._starting: dict[str, asyncio.Future[int]] = {}
        self._closed = False

    @classmethod
    def from_handle(cls, handle: tuple[int, int]) -> Preloader:
        """Return the preloader whose ``handle`` this process had before it was replaced."""
        pid, descriptor = handle
        os.set_inheritable(descriptor, False)
        return cls(pid, socket.socket(fileno=descriptor))

    @property
    def handle(self) -> tuple[int, int]:
        """Its process id, and the file descriptor of its socket."""
        return self.pid, self._control.fileno()

    def close(self) -> None:
        """End it: no further service is started."""
        if self._closed:
            return
        self._closed = True
        self._control.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    @property
    def is_starting(self) -> bool:
        """Whether there may be a process whose id is not known yet."""
        return bool(self._starting)

    async def start(
        self, service: str, environment: Mapping[str, str], on_line: Callable[[bytes], None]
    ) -> Process:
        """Start *service* as ``Process.execute`` does. Raises PreloaderGone, OSError.

        The caller must be the subreaper of its descendants.
        """
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()
        # It reaches the fork alone: the preloader, of which all are copies, does not read it.
        settings = os.memfd_create("environment")
        try:
            os.write(settings, json.dumps(dict(environment)).encode())
            os.lseek(settings, 0, os.SEEK_SET)
            if not self._starting:
                loop.add_reader(self._control, self._receive)
            started: asyncio.Future[int] = loop.create_future()
            self._starting[service] = started
            with suppress(OSError):  # it has ended: the reader finds out
                socket.send_fds(self._control, [service.encode()], [settings, write_end])
            try:
                return Process(await started, read_end, on_line)
            finally:
                self._remove(service)
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(settings)
            os.close(write_end)

    def _receive(self) -> None:
        try:
            packet = self._control.recv(_MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            log.warning("the services cannot be preloaded and are executed")
            for started in self._starting.values():
                if not started.done():
                    started.set_exception(PreloaderGone())
            asyncio.get_running_loop().remove_reader(self._control)
            return
        message = json.loads(packet)
        waiting = self._starting.get(message["name"])
        if waiting is not None and not waiting.done():
            waiting.set_result(message["pid"])

    def _remove(self, service: str) -> None:
        del self._starting[service]
        if not self._starting:
            asyncio.get_running_loop().remove_reader(self._control)


@contextmanager
def open_preloader() -> Iterator[Preloader]:
    """Run a preloader until the block ends. Its environment has no settings."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours:
        with theirs:
            environment = environment_without_settings()
            set_experiments(environment)
            process = subprocess.Popen(
                module_command("reelhaul_runtime.up.preloader", str(theirs.fileno()), str(os.getpid())),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        # close() waits for it.
        process.returncode = 0
        preloader = Preloader(process.pid, ours)
        try:
            yield preloader
        finally:
            preloader.close()
