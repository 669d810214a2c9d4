"""The warm parent: yt-dlp loaded once, a child forked for each fetch.

Run as ``python -m reelhaul_fetcher.ytdlp.process.zygote FD [USER NETWORK]``, where FD is a
SOCK_SEQPACKET socket to the fetcher, and USER and NETWORK are namespaces to live in. It stays
single-threaded: a fork from threads, gRPC's above all, inherits locks that nobody will
release. When the fetcher is gone, so are all children.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from reelhaul_fetcher.ytdlp.process import setns

_PR_SET_CHILD_SUBREAPER = 36
_MAX_MESSAGE = 4096


class Zygote:
    """Forks, stops and reaps. The children speak with the fetcher themselves."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        #: Run id of each child's process group, and its exit status once it is known.
        self._runs: dict[int, tuple[str, int | None]] = {}
        self._ids: dict[str, int] = {}
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)

    def serve(self) -> None:
        """Do what the fetcher asks until it is gone."""
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self._control, self._waker], [], [])
            if self._waker in ready:
                self._waker.recv(4096)
                self._reap()
            if self._control in ready and not self._obey():
                break
        for group in self._runs:
            _kill(group)

    def _obey(self) -> bool:
        """One request of the fetcher; False when it is gone."""
        message, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, 1)
        if not message:
            return False
        request = json.loads(message)
        if "start" in request:
            self._start(request["start"], descriptors[0], tastes=request["tastes"])
        elif request["stop"] in self._ids:
            _kill(self._ids[request["stop"]])
        return True

    def _start(self, run: str, descriptor: int, *, tastes: bool) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_child(descriptor, tastes=tastes)
        os.close(descriptor)
        self._runs[pid] = (run, None)
        self._ids[run] = pid
        self._tell({"started": run, "pid": pid})

    def _become_child(self, descriptor: int, *, tastes: bool) -> None:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self._control, self._waker, self._woken):
                end.close()
            from reelhaul_fetcher.media import inspector_client
            from reelhaul_fetcher.ytdlp.process import child

            if tastes:
                # Before the order is read: a taster knows of nothing.
                inspector_client.start()
            child.run(socket.socket(fileno=descriptor))
        finally:
            # No atexit, no flush of what the parent had buffered.
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            if ended.si_pid in self._runs:
                # Before it is reaped, its number cannot be another's.
                _kill(ended.si_pid)
            _, status = os.waitpid(ended.si_pid, 0)
            if ended.si_pid in self._runs:
                run, _ = self._runs[ended.si_pid]
                self._runs[ended.si_pid] = (run, status)
        self._announce()

    def _announce(self) -> None:
        """Tell of runs whose last process is gone."""
        for group, (run, status) in list(self._runs.items()):
            if status is None or _alive(group):
                continue
            del self._runs[group], self._ids[run]
            self._tell({"ended": run, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:
            return


def _kill(group: int) -> None:
    """End a child's process group; the child alone, where it has not made its group yet."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(group, signal.SIGKILL)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Warm up, say so, serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    if len(sys.argv) > 2:
        # First of all: only a process of one thread may move.
        setns.enter(*map(int, sys.argv[2:4]))
    os.set_inheritable(control.fileno(), False)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # The fetcher decides when to end; a Ctrl-C in its terminal is its own to hear.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from reelhaul_fetcher.ytdlp.process import child

    version = child.warm_up()
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"warm": version}).encode())
    Zygote(control).serve()


if __name__ == "__main__":
    main()
