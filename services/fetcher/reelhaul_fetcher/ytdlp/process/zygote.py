"""Zygote: a process with yt-dlp loaded, which forks a child for each request.

Run as ``python -m reelhaul_fetcher.ytdlp.process.zygote FD [USER NETWORK]``, where FD is a SOCK_SEQPACKET
socket to the fetcher, and USER and NETWORK are namespaces to enter. It stays single-threaded: a fork of a
process with threads, gRPC's above all, inherits locks that nobody will release. When the fetcher is gone,
so are all children.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from reelhaul_fetcher.ytdlp.process import setns

_PR_SET_CHILD_SUBREAPER = 36
_MAX_MESSAGE_BYTES = 4096
_PREPARED = object()


class Zygote:
    """Forks, kills and reaps children. They talk to the fetcher themselves."""

    def __init__(self, control: socket.socket, preparation: Iterator[None]) -> None:
        """*preparation*: short steps that make later children faster, done once it is used."""
        self._control = control
        self._preparation, self._is_prepared, self._is_used = preparation, False, False
        #: By process group: the name of the child, and its wait status once it is reaped.
        self._children: dict[int, tuple[str, int | None]] = {}
        self._groups: dict[str, int] = {}
        # SIGCHLD makes the read end readable.
        self._wakeup_write, self._wakeup_read = socket.socketpair()
        for end in (self._wakeup_write, self._wakeup_read):
            end.setblocking(False)

    def serve(self) -> None:
        """Follow the fetcher's commands until it is gone, then kill all children."""
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            prepares = self._is_used and not self._is_prepared
            timeout = 0 if prepares else None
            readable, _, _ = select.select([self._control, self._wakeup_read], [], [], timeout)
            if self._wakeup_read in readable:
                self._wakeup_read.recv(4096)
                self._reap()
            if self._control in readable and not self._handle_command():
                break
            if not readable and next(self._preparation, _PREPARED) is _PREPARED:
                self._is_prepared = True
                _freeze()
        for group in self._children:
            _kill(group)

    def _handle_command(self) -> bool:
        """Follow one command of the fetcher; False if the fetcher is gone."""
        packet, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE_BYTES, 1)
        if not packet:
            return False
        command = json.loads(packet)
        if "start" in command:
            self._start(command["start"], descriptors[0], inspector=command["inspector"])
        elif command["stop"] in self._groups:
            _kill(self._groups[command["stop"]])
        return True

    def _start(self, name: str, descriptor: int, *, inspector: bool) -> None:
        self._is_used = True
        pid = os.fork()
        if pid == 0:
            self._become_child(descriptor, inspector=inspector)
        os.close(descriptor)
        self._children[pid] = (name, None)
        self._groups[name] = pid
        self._send({"started": name, "pid": pid})

    def _become_child(self, descriptor: int, *, inspector: bool) -> None:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self._control, self._wakeup_write, self._wakeup_read):
                end.close()
            from reelhaul_fetcher.media import inspector_client
            from reelhaul_fetcher.ytdlp.process import child

            if inspector:
                # Forked before the request is read: the inspector must not know its secrets.
                inspector_client.start()
            child.run(socket.socket(fileno=descriptor))
        finally:
            # Skips atexit handlers, and the buffers inherited from the zygote.
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            if ended.si_pid in self._children:
                # Kill the group before the child is reaped: until then its number is not reused.
                _kill(ended.si_pid)
            _, status = os.waitpid(ended.si_pid, 0)
            if ended.si_pid in self._children:
                name, _ = self._children[ended.si_pid]
                self._children[ended.si_pid] = (name, status)
        self._announce_ended()

    def _announce_ended(self) -> None:
        """Tell the fetcher of the children of whose group no process is left."""
        for group, (name, status) in list(self._children.items()):
            if status is None or _exists(group):
                continue
            del self._children[group], self._groups[name]
            self._send({"ended": name, "exit_code": os.waitstatus_to_exitcode(status)})

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            self._control.send(json.dumps(message).encode())


def _kill(group: int) -> None:
    """Kill the process group of a child, or the child alone if it has no group of its own yet."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(group, signal.SIGKILL)


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Warm up, tell the fetcher, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    if len(sys.argv) > 2:
        # Before anything else is loaded: only a process with one thread can enter a user namespace.
        setns.enter(*map(int, sys.argv[2:4]))
    # A crash of a library in a child is the last that it writes.
    faulthandler.enable()
    os.set_inheritable(control.fileno(), False)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # The fetcher decides when to end; Ctrl-C in its terminal reaches this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It would look for garbage a hundred times in what is being loaded.
    gc.disable()
    from reelhaul_fetcher.ytdlp.process import child

    version = child.warm_up()
    _freeze()
    gc.enable()
    control.send(json.dumps({"warm": version}).encode())
    Zygote(control, child.prepare()).serve()


def _freeze() -> None:
    """Exclude what is loaded from garbage collections, which would copy it into the children."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
