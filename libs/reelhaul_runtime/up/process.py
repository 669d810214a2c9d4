"""One child process: started in a group of its own, awaited, ended with all that it left behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from reelhaul_runtime.parent_death import die_with_parent
from reelhaul_runtime.up import procfs

_PR_SET_CHILD_SUBREAPER = 36
_MAX_LINE_BYTES = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A running command whose output comes line by line.

    It is told SIGTERM by the kernel if the supervisor dies, so that it drains rather than
    outlives it.
    """

    def __init__(
        self, command: Iterable[str], environment: Mapping[str, str], tell: Callable[[bytes], None]
    ) -> None:
        reading, writing = os.pipe()
        try:
            self._popen = subprocess.Popen(
                list(command),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM, parent=os.getpid()),
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self.pid = self._popen.pid
        loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._collect)
        self._output = loop.create_task(_read_lines(reading, tell))

    async def wait(self) -> int:
        """The exit code when it ends, negative for a signal; nothing of its group is left then."""
        code = await asyncio.shield(self._code)
        # What it said last is read to the end, unless a stray child holds the pipe open.
        await asyncio.wait({self._output}, timeout=0.5)
        self._output.cancel()
        return code

    def terminate(self) -> None:
        """SIGTERM to the process alone: what to do with its children is its own affair."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its whole group."""
        if not self._code.done():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if not self._code.done():
            signal.pidfd_send_signal(self._pidfd, number)

    def _collect(self) -> None:
        self.kill()  # before its id is given back: it still names this group and no other
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._code.set_result(self._popen.wait())


def become_subreaper() -> None:
    """From now on a process whose parent died becomes this process's child, not init's."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_orphans(ours: Iterable[int]) -> None:
    """Kill and bury the children of this process that are not *ours*: their own parent has died."""
    for pid in set(procfs.children(os.getpid())) - set(ours):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


async def _read_lines(handle: int, tell: Callable[[bytes], None]) -> None:
    """Pass each line of the pipe *handle* on; one that never ends is cut."""
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(handle, "rb", buffering=0)
    )
    try:
        while line := await _line(reader):
            tell(line.rstrip(b"\r\n"))
    finally:
        transport.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError:
        return await reader.read(_MAX_LINE_BYTES)
