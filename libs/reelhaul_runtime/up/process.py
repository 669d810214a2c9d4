"""Child process: started in its own process group, read line by line, ended with all its children."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from reelhaul_runtime.child_process import environment_without_settings, read_lines
from reelhaul_runtime.parent_death import die_with_parent
from reelhaul_runtime.up import procfs

#: An option of prctl(2).
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A running child process whose output (stdout and stderr) goes line by line to *on_line*."""

    def __init__(self, pid: int, output: int, on_line: Callable[[bytes], None]) -> None:
        """*pid*: a child of this process, the leader of its process group. *output*: the pipe to read."""
        self.pid = pid
        loop = asyncio.get_running_loop()
        self._exit_code: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._reap)
        self._output = loop.create_task(read_lines(output, on_line))

    @classmethod
    def execute(
        cls, command: Iterable[str], environment: Mapping[str, str], on_line: Callable[[bytes], None]
    ) -> Process:
        """Start *command*. Raises OSError.

        Its environment is *environment* beside what the supervisor's has, except settings of the suite.
        If the supervisor dies, the kernel sends the process SIGTERM, so that it drains instead of
        outliving the supervisor.
        """
        read_end, write_end = os.pipe()
        try:
            popen = subprocess.Popen(
                list(command),
                env={**environment_without_settings(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM, parent=os.getpid()),
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        # Process waits for it.
        popen.returncode = 0
        return cls(popen.pid, read_end, on_line)

    async def wait(self) -> int:
        """Wait until the process and its group have ended; return the exit code, negative for a signal."""
        code = await asyncio.shield(self._exit_code)
        # Read its last lines, but do not wait for a stray child that holds the pipe open.
        await asyncio.wait({self._output}, timeout=0.5)
        self._output.cancel()
        return code

    def terminate(self) -> None:
        """Send SIGTERM to the process alone: it ends its own children."""
        if not self._exit_code.done():
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the whole process group."""
        if not self._exit_code.done():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _reap(self) -> None:
        self.kill()  # before the process id is freed: until then it names this group and no other
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self._exit_code.set_result(os.waitstatus_to_exitcode(status))


def become_subreaper() -> None:
    """Adopt processes whose parent dies, in place of init, from now on."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_orphans(keep: Iterable[int]) -> None:
    """Kill and reap the children of this process that are not in *keep*: their own parent has died."""
    for pid in set(procfs.children(os.getpid())) - set(keep):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
